package store

import (
	"context"
	"fmt"
	"time"

	"github.com/redis/go-redis/v9"
)

// Ledger is where the outcomes of a customer's records of one topic partition are kept
// until they are committed.
type Ledger struct{ customer, entries, source string }

// Ledger is where the call's outcome is kept; ok is false where none is.
func (c *Call) Ledger() (ledger Ledger, ok bool) {
	if !c.changes() {
		return Ledger{}, false
	}
	return Ledger{c.customer, c.ledger, c.source}, true
}

var forgetScript = newScript("forget")

// strangerMark is how long a customer that does not exist is remembered for having been
// asked about.
const strangerMark = 24 * time.Hour

// Forget drops those of the ledgers, all of one topic partition, that have nothing in them
// but what lies below the committed offset. The next record of the customer would do so,
// too, but may be long in coming.
func (s *Store) Forget(ctx context.Context, ledgers []Ledger, committed int64) error {
	for loaded := false; ; loaded = true {
		pipe := s.client.Pipeline()
		for _, ledger := range ledgers {
			pipe.EvalSha(ctx, forgetScript.Hash(), []string{ledger.customer, ledger.entries}, committed, strangerMark.Milliseconds(), ledger.source)
		}
		_, err := pipe.Exec(ctx)
		if loaded || !redis.HasErrorPrefix(err, "NOSCRIPT") {
			if err != nil {
				return fmt.Errorf("redis script %s: %w", forgetScript.name, err)
			}
			return nil
		}
		if err := forgetScript.Load(ctx, s.client).Err(); err != nil {
			return fmt.Errorf("load redis script %s: %w", forgetScript.name, err)
		}
	}
}
