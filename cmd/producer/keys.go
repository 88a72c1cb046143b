package main

import (
	"tollgate/internal/client"
	"tollgate/internal/settings"
)

// keys are the settings of idempotency keys. Kafka takes a record twice if the answer to the first sending was lost and
// the producer's session with it, and a person sends a request twice if no result has come. With the same key both
// are decided once.
type keys struct {
	IdempotencyKey   string `placeholder:"KEY" group:"Request" help:"Sending the same key again changes nothing more; one is made where none is given."`
	NoIdempotencyKey bool   `group:"Request" help:"Send none: a request that Kafka takes twice is decided twice."`
}

// maxKeyBytes leaves room, within what the worker takes, for what a command puts behind a key.
const maxKeyBytes = 240

func (k *keys) check(problems *settings.Problems) {
	if k.IdempotencyKey != "" && k.NoIdempotencyKey {
		problems.Add("give either --idempotency-key or --no-idempotency-key")
	}
	if len(k.IdempotencyKey) > maxKeyBytes {
		problems.Add("--idempotency-key must not be longer than %d bytes", maxKeyBytes)
	}
}

// of is the key of a request, "" for none: a key that was given goes with every request, one is made for those that
// may change something.
func (k *keys) of(changes bool) string {
	if k.IdempotencyKey != "" || k.NoIdempotencyKey || !changes {
		return k.IdempotencyKey
	}
	return client.NewRequestID()
}
