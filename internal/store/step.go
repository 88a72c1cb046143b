package store

import (
	"crypto/sha256"
	"encoding/base64"
	"strconv"
	"time"

	"github.com/tinylib/msgp/msgp"
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

// Source names a topic partition of a Kafka cluster in keys, within one lifetime of the offsets
// that a consumer group has committed of it. Offsets and generations mean nothing in another,
// which must not find what the one before left. The name is a digest: it stands in Redis once
// for every customer.
func Source(cluster, topic string, partition int, lifetime string) string {
	digest := sha256.Sum256([]byte(cluster + "/" + topic + "/" + lifetime))
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

// call makes a call of a script. rows are those of items that it may need; args are packed.
func (s *Store) call(run *script, step Step, kind Kind, items *Items, rows, args []byte) Call {
	customer := s.customerKey(step.Customer)
	call := Call{
		script: run, customer: customer, entities: entitiesKey(customer), ledger: ledgerKey(customer, step.Origin.Source),
		header: header{
			nowMs: step.Now.UnixMilli(), source: step.Origin.Source, generation: step.Origin.Generation,
			committed: step.Origin.Committed, window: step.IdempotencyWindow,
		},
		items: items, rows: rows, offset: step.Origin.Offset, timestampMs: step.Origin.TimestampMs, memo: step.Memo, args: args,
	}
	if step.IdempotencyKey != "" {
		call.idempotency = idempotencyKey(customer, kind, step.IdempotencyKey)
	}
	if step.Remember {
		call.keep = keepOutcome
	}
	return call
}

// What the ledger keeps of a call, "" for nothing: KEEP of scripts/lib/step.lua.
const (
	keepOutcome = "o"
	keepTurn    = "t"
)

// changes says whether the call may change something; then its outcome is kept.
func (c *Call) changes() bool { return c.keep == keepOutcome }

// header is what the steps of one call of a script have in common.
type header struct {
	nowMs      int64
	source     string
	generation int
	committed  int64
	window     time.Duration
}

// appendStep packs what scripts/lib/step.lua reads of a step.
func (c *Call) appendStep(dst []byte) []byte {
	dst = msgp.AppendArrayHeader(dst, 7)
	dst = appendDigits(dst, c.offset)
	dst = appendDigits(dst, c.timestampMs)
	if c.predecessor == noPredecessor {
		dst = msgp.AppendString(dst, "")
	} else {
		dst = appendDigits(dst, c.predecessor)
	}
	dst = msgp.AppendString(dst, c.keep)
	dst = msgp.AppendInt(dst, bit(c.idempotency != ""))
	dst = msgp.AppendStringFromBytes(dst, c.memo)
	return append(dst, c.args...)
}

// appendDigits packs a number as text: the scripts join it to other text, for which Lua
// would round it.
func appendDigits(dst []byte, n int64) []byte {
	var digits [20]byte
	return msgp.AppendStringFromBytes(dst, strconv.AppendInt(digits[:0], n, 10))
}

// command makes the command for a group of calls.
func command(calls []Call, group []int) []any {
	first := &calls[group[0]]
	command := make([]any, 3, 4+4*len(group))
	rows := first.rows
	for i, n := range group {
		call := &calls[n]
		if i == 0 {
			command = append(command, call.customer) // a cluster client routes by it: no pointer
		} else {
			command = append(command, &call.customer)
		}
		command = append(command, &call.entities, &call.ledger)
		if call.idempotency != "" {
			command = append(command, &call.idempotency)
		}
		if !sameRows(rows, call.rows) {
			rows = call.items.all
		}
	}
	command[0], command[1], command[2] = "evalsha", first.script.Hash(), len(command)-3
	packed := make([]byte, 0, 128+len(rows)+128*len(group))
	packed = msgp.AppendArrayHeader(packed, 7)
	packed = msgp.AppendInt64(packed, first.nowMs)
	packed = msgp.AppendString(packed, first.source)
	packed = appendDigits(packed, int64(first.generation))
	packed = msgp.AppendInt64(packed, first.committed)
	packed = msgp.AppendInt64(packed, first.nowMs+first.window.Milliseconds())
	packed = msgp.AppendStringFromBytes(packed, rows)
	packed = msgp.AppendArrayHeader(packed, uint32(len(group)))
	for _, n := range group {
		packed = calls[n].appendStep(packed)
	}
	return append(command, packed)
}

// sameRows says whether two are the same in memory.
func sameRows(a, b []byte) bool {
	return len(a) == len(b) && (len(a) == 0 || &a[0] == &b[0])
}
