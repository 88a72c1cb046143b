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
	keys := make([]string, 3, 4)
	keys[0], keys[1], keys[2] = customer, entitiesKey(customer), ledgerKey(customer, step.Origin.Source)
	nowMs := step.Now.UnixMilli()
	windowEnd := ""
	if step.IdempotencyKey != "" {
		keys = append(keys, idempotencyKey(customer, kind, step.IdempotencyKey))
		windowEnd = strconv.FormatInt(nowMs+step.IdempotencyWindow.Milliseconds(), 10)
	}
	keep := keepNothing
	if step.Remember {
		keep = keepOutcome
	}
	common := make([]any, 0, commonArgs+len(args))
	common = append(common, nowMs, step.Origin.Offset, step.Origin.TimestampMs, step.Origin.Generation,
		step.Origin.Committed, windowEnd, step.Memo, items, noPredecessor, keep)
	return Call{script: run, keys: keys, args: append(common, args...)}
}

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
func (c *Call) changes() bool { return c.args[argKeep] == keepOutcome }

// ledger is the key of the call's ledger: one for each customer and topic partition.
func (c *Call) ledger() string { return c.keys[2] }
