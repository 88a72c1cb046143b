package store

import (
	"crypto/sha256"
	"encoding/base64"
	"slices"
	"strconv"
	"time"

	"github.com/tinylib/msgp/msgp"

	"tollgate/internal/balance"
)

// Origin is the Kafka record that a step is taken for. It names the outcome, so that a record processed
// again returns what it returned the first time (semantics: Redelivery and repeats).
type Origin struct {
	Source      string // see Source
	Offset      int64
	TimestampMs int64
	Committed   int64 // offset up to which the partition is committed
}

// Source names a topic partition of a Kafka cluster within a lifetime of the consumer group: what is
// committed of it only grows. The name is a digest: it stands in Redis once for every customer.
func Source(cluster, topic string, partition int, lifetime string) string {
	digest := sha256.Sum256([]byte(cluster + "/" + topic + "/" + strconv.Itoa(partition) + "/" + lifetime))
	return base64.RawURLEncoding.EncodeToString(digest[:6])
}

// Step is what every call of a script has in common.
type Step struct {
	Customer string
	Entity   string // "" for the customer
	Origin   Origin
	// Remember keeps the outcome until the origin's offset is committed. A step that changes nothing
	// can do without.
	Remember bool
	// DeadlineMs is a Unix time, ms, after which the record is not decided; 0: none.
	DeadlineMs int64
	// Refusal is the error to answer with unless the record was decided before, nil to decide.
	Refusal *balance.Error
	// IdempotencyKey is "" where the request has none. Question tells the request from others with
	// the same key, and Memo is handed back with the outcome when the question is repeated.
	IdempotencyKey    string
	IdempotencyWindow time.Duration
	Question, Memo    []byte
}

// Call is a step that a script takes, not yet sent.
type Call struct {
	head
	script *script
	// Keys; entityKey and answerKey are "" if the step has none.
	customer, entityKey, answerKey string
	step                           Step
	asked                          int64  // ASKED.deduct and ASKED.preview
	kind                           string // RARE.kind
	refusal                        string
	args                           []byte // RARE.args; nil for none
	lockID                         string // of the lock that the step makes, or that expires at another time; "" for none
	lockExpiresMs                  int64  // 0: as late as may be
	needs                          []Need // of a check
	items                          *Items
	rows                           []byte // of items, those that the step may need
	wantsRows                      bool   // the script asked for them
	alone                          bool   // the step is to be in a call of its own
	failed                         bool   // it was, and failed
}

// head is what the steps of one call of a script have in common.
type head struct {
	log       string // key of the source's log, "" for none
	source    string
	committed int64
	window    time.Duration
}

// call makes a call of a script. rows are those of items that it may need.
func (s *Store) call(run *script, step Step, kind string, items *Items, rows []byte) Call {
	customer := s.customerKey(step.Customer)
	call := Call{
		head:   head{log: s.logKey(step.Origin.Source), source: step.Origin.Source, committed: step.Origin.Committed, window: step.IdempotencyWindow},
		script: run, customer: customer, step: step, kind: kind, items: items, rows: rows,
	}
	if step.Entity != "" {
		call.entityKey = entityKey(customer, step.Entity)
	}
	if step.IdempotencyKey != "" {
		call.answerKey = idempotencyKey(customer, step.IdempotencyKey)
	}
	if step.Refusal != nil {
		call.refusal = step.Refusal.Error()
	}
	return call
}

var (
	headValues   = inOrder("HEAD", "now", "window", "source", "committed", "rows", "all_rows", "data", "log", "steps")
	stepValues   = inOrder("STEP", "key", "offset", "timestamp", "asked", "needs")
	entityValues = inOrder("ENTITY", "key", "id")
	rareValues   = inOrder("RARE", "answer_key", "deadline", "question", "memo", "kind", "refusal", "args")

	askedKeep, askedEntity, askedRare = number("ASKED", "keep"), number("ASKED", "entity"), number("ASKED", "rare")
)

// exactInLua are the bits of an integer that a number of Lua has room for.
const exactInLua = 1<<53 - 1

// appendStep packs STEP, the needs, and ENTITY and RARE if the step has any; the keys are places in KEYS. It returns how
// many values these are, too.
func (c *Call) appendStep(dst []byte, key, entityKey, answerKey int) ([]byte, int) {
	asked, values := c.asked, stepValues+needValues(c.needs)
	if c.step.Remember {
		asked += askedKeep
	}
	if c.step.Entity != "" {
		asked += askedEntity
		values += entityValues
	}
	rare := c.answerKey != "" || c.step.DeadlineMs != 0 || c.kind != "" || c.refusal != "" || len(c.args) > 0
	if rare {
		asked += askedRare
		values += rareValues
	}
	dst = msgp.AppendInt(dst, key)
	dst = msgp.AppendInt64(dst, c.step.Origin.Offset)
	dst = msgp.AppendInt64(dst, c.step.Origin.TimestampMs&exactInLua) // it only tells records apart
	dst = msgp.AppendInt64(dst, asked)
	dst = msgp.AppendInt(dst, needValues(c.needs))
	dst = appendNeeds(dst, c.needs)
	if c.step.Entity != "" {
		dst = msgp.AppendInt(dst, entityKey)
		dst = msgp.AppendString(dst, c.step.Entity)
	}
	if rare {
		dst = msgp.AppendInt(dst, answerKey)
		dst = msgp.AppendInt64(dst, c.step.DeadlineMs)
		dst = msgp.AppendStringFromBytes(dst, c.step.Question)
		dst = msgp.AppendStringFromBytes(dst, c.step.Memo)
		dst = msgp.AppendString(dst, c.kind)
		dst = msgp.AppendString(dst, c.refusal)
		dst = msgp.AppendStringFromBytes(dst, c.args)
	}
	return dst, values
}

// evalsha is the command of Redis that takes the steps of a group of calls, each customer's one behind the other.
func evalsha(now time.Time, calls []Call, group []int) []any {
	first := &calls[group[0]]
	const fixed = 3 // in front of the keys
	words := make([]any, fixed, fixed+1+3*len(group))
	steps := make([]byte, 0, 128*len(group))
	key, values := 0, 0
	place := func(of *string) int {
		if *of == "" {
			return 0
		}
		words = append(words, of)
		return len(words) - fixed
	}
	for i, n := range group {
		call := &calls[n]
		switch {
		case i == 0:
			words = append(words, call.customer) // a cluster client routes by it: no pointer
			key = 1
		case call.customer != calls[group[i-1]].customer:
			key = place(&call.customer)
		}
		var added int
		steps, added = call.appendStep(steps, key, place(&call.entityKey), place(&call.answerKey))
		values += added
	}
	rows := rowsOf(calls, group)
	data := len(words) - fixed
	log := place(&first.log)
	words[0], words[1], words[2] = "evalsha", first.script.Hash(), len(words)-fixed
	packed := make([]byte, 0, 64+len(rows)+len(steps))
	packed = msgp.AppendArrayHeader(packed, uint32(headValues+values))
	packed = msgp.AppendInt64(packed, now.UnixMilli())
	packed = msgp.AppendInt64(packed, max(1, first.window.Milliseconds()))
	packed = msgp.AppendString(packed, first.source)
	packed = msgp.AppendInt64(packed, first.committed)
	if rows == nil {
		packed = msgp.AppendBool(packed, false)
	} else {
		packed = msgp.AppendStringFromBytes(packed, rows)
	}
	packed = msgp.AppendInt(packed, bit(rows != nil && sameRows(rows, first.items.all)))
	packed = msgp.AppendInt(packed, data)
	packed = msgp.AppendInt(packed, log)
	packed = msgp.AppendInt(packed, len(group))
	return append(words, append(packed, steps...))
}

// rowsOf are the catalogue's rows for a group, nil if no call has asked for them. They are for all of its steps: one that
// could do without may be due, too, by now.
func rowsOf(calls []Call, group []int) []byte {
	if !slices.ContainsFunc(group, func(n int) bool { return calls[n].wantsRows }) {
		return nil
	}
	rows := calls[group[0]].rows
	for _, n := range group {
		if call := &calls[n]; rows == nil || !sameRows(rows, call.rows) {
			return call.items.all
		}
	}
	return rows
}

// sameRows says whether two are the same in memory.
func sameRows(a, b []byte) bool {
	return len(a) == len(b) && (len(a) == 0 || &a[0] == &b[0])
}
