package store

import (
	"crypto/sha256"
	"encoding/base64"
	"strconv"
	"time"
)

// Origin is the Kafka record that a step is taken for. It names the outcome, so
// that a record processed again returns what it returned the first time
// (semantics: Redelivery and repeats).
type Origin struct {
	Source      string // the topic partition, see Source
	Offset      int64
	TimestampMs int64
	Generation  int   // of the consumer group that handed the record out
	Committed   int64 // offset up to which the partition is committed
}

// Source names a topic partition of a Kafka cluster in keys. Offsets and generations mean
// nothing to another cluster, so a cluster that was made anew must not find what the one
// before left. The name is a digest: it stands in Redis once for every customer.
func Source(cluster, topic string, partition int) string {
	digest := sha256.Sum256([]byte(cluster + "/" + topic))
	return base64.RawURLEncoding.EncodeToString(digest[:6]) + "/" + strconv.Itoa(partition)
}

// Kind keeps the idempotency keys of checks and of commands apart.
type Kind string

// The kinds of a step.
const (
	CheckKind   Kind = "check"
	CommandKind Kind = "command"
)

// Step is what every call of a script has in common.
type Step struct {
	Now      time.Time
	Customer string
	Origin   Origin
	// Remember records the outcome until the origin's offset is committed. A step
	// that changes nothing can do without.
	Remember bool
	// IdempotencyKey is "" where the request has none.
	IdempotencyKey    string
	IdempotencyWindow time.Duration
	// Memo is handed back with the outcome when the idempotency key is met again.
	Memo []byte
}

// call makes the keys and the common arguments of scripts/lib/outcome.lua.
func (s *Store) call(run *script, step Step, kind Kind, items []byte, args ...any) Call {
	customer := s.customerKey(step.Customer)
	keyCount, windowEnd, nowMs := 3, "", step.Now.UnixMilli()
	if step.IdempotencyKey != "" {
		keyCount, windowEnd = 4, strconv.FormatInt(nowMs+step.IdempotencyWindow.Milliseconds(), 10)
	}
	command := make([]any, 0, keysAt+keyCount+commonArgs+len(args))
	command = append(command, "evalsha", run.Hash(), keyCount, customer, entitiesKey(customer), ledgerKey(customer, step.Origin.Source))
	if keyCount == 4 {
		command = append(command, idempotencyKey(customer, kind, step.IdempotencyKey))
	}
	keep := keepNothing
	if step.Remember {
		keep = keepOutcome
	}
	command = append(command, nowMs, step.Origin.Offset, step.Origin.TimestampMs, step.Origin.Generation,
		step.Origin.Committed, windowEnd, step.Memo, items, noPredecessor, keep)
	command = append(command, args...)
	return Call{script: run, command: command, common: command[keysAt+keyCount:][:commonArgs]}
}

// keysAt is where the keys begin in a command; the ledger is the third of them.
const (
	keysAt   = 3
	ledgerAt = keysAt + 2
)

// Places among the common arguments.
const (
	argOffset      = 1
	argPredecessor = 8
	argKeep        = 9
	commonArgs     = 10
)

const noPredecessor = ""

// What the ledger keeps of a call: KEEP of scripts/lib/outcome.lua.
const (
	keepNothing = ""
	keepOutcome = "o"
	keepTurn    = "t"
)

// changes says whether the call may change something; then its outcome is kept.
func (c *Call) changes() bool { return c.common[argKeep] == keepOutcome }

// ledger is the key of the call's ledger: one for each customer and topic partition.
func (c *Call) ledger() string { return c.command[ledgerAt].(string) }
