package engine_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/segmentio/kafka-go"

	"tollgate/internal/balance"
	"tollgate/internal/catalog"
	"tollgate/internal/engine"
	"tollgate/internal/ops"
	"tollgate/internal/servertest"
	"tollgate/internal/store"
	"tollgate/internal/stream"
	"tollgate/internal/wire"
)

// rig is an engine with a catalogue and a clock of the test's, whose records are decided one by one.
type rig struct {
	*testing.T
	client   *redis.Client
	prefix   string
	engine   *engine.Engine
	now      time.Time
	offsets  map[string]int64 // by topic, of the next record
	deciders map[string]stream.PartitionDecider
}

func newRig(t *testing.T, catalogue string) *rig {
	t.Helper()
	rules, err := catalog.Parse([]byte(catalogue))
	if err != nil {
		t.Fatal(err)
	}
	r := &rig{
		T: t, client: servertest.Redis(t), prefix: servertest.Unique("rig") + ":", now: time.UnixMilli(1_790_000_000_000),
		offsets: map[string]int64{}, deciders: map[string]stream.PartitionDecider{},
	}
	st, err := store.New(r.client, store.Options{Prefix: r.prefix})
	if err != nil {
		t.Fatal(err)
	}
	r.engine = engine.New(st, rules, engine.Options{
		Topics: topics, IdempotencyWindow: time.Hour, Clock: func() time.Time { return r.now },
	}, servertest.Silent(), ops.NewMetrics())
	for _, topic := range []string{topics.Checks, topics.Commands} {
		r.deciders[topic] = r.engine.Partition(topic, 0)
	}
	r.command(`{"type":"customer.put","customer_id":"acme"}`)
	return r
}

// record is the next of a topic. headers are names and values in turn.
func (r *rig) record(topic, value string, headers ...string) kafka.Message {
	record := kafka.Message{Topic: topic, Offset: r.offsets[topic], Time: r.now, Key: []byte("acme"), Value: []byte(value)}
	for i := 0; i < len(headers); i += 2 {
		record.Headers = append(record.Headers, kafka.Header{Key: headers[i], Value: []byte(headers[i+1])})
	}
	r.offsets[topic]++
	return record
}

// decide decides records of a topic as one batch.
func (r *rig) decide(records ...kafka.Message) []kafka.Message {
	r.Helper()
	topic := records[0].Topic
	out, err := r.deciders[topic].Decide(r.Context(), stream.Batch{Topic: topic, Records: records})
	if err != nil {
		r.Fatal(err)
	}
	return out.Records
}

func (r *rig) check(value string, headers ...string) wire.ResultRecord {
	r.Helper()
	return read[wire.ResultRecord](r.T, r.decide(r.record(topics.Checks, value, headers...))[0])
}

// commandResult is what a command is answered with.
type commandResult struct {
	OK           bool                       `json:"ok"`
	Error        *wire.ErrorRecord          `json:"error"`
	Balances     map[string]wire.PoolRecord `json:"balances"`
	BalanceID    string                     `json:"balance_id"`
	UsageEventID string                     `json:"usage_event_id"`
}

func (c commandResult) code() balance.Code {
	if c.Error == nil {
		return ""
	}
	return c.Error.Code
}

// answer is what a command is answered with, command fails the test if it is an error.
func (r *rig) answer(value string, headers ...string) commandResult {
	r.Helper()
	return read[commandResult](r.T, r.decide(r.record(topics.Commands, value, headers...))[0])
}

func (r *rig) command(value string, headers ...string) commandResult {
	r.Helper()
	result := r.answer(value, headers...)
	if !result.OK {
		r.Fatalf("%s: %+v", value, result.Error)
	}
	return result
}

// remaining is what a customer has left of a feature.
func (r *rig) remaining(feature string) string {
	r.Helper()
	result := r.check(fmt.Sprintf(`{"customer_id":"acme","feature_id":%q,"required_balance":0}`, feature))
	if result.Balance == nil {
		r.Fatalf("%s: %s", feature, result.Code)
	}
	return result.Balance.Remaining.String()
}

func read[T any](t testing.TB, record kafka.Message) (result T) {
	t.Helper()
	if err := json.Unmarshal(record.Value, &result); err != nil {
		t.Fatal(err, string(record.Value))
	}
	return result
}

// failingAtFirst has Redis fail so many times before it answers, and passing called each time.
func (r *rig) failingAtFirst(times int, passing func()) {
	r.client.AddHook(&failures{left: times, passing: passing})
}

type failures struct {
	redis.Hook
	left    int
	passing func()
}

var errAway = errors.New("the connection is refused")

func (h *failures) DialHook(next redis.DialHook) redis.DialHook          { return next }
func (h *failures) ProcessHook(next redis.ProcessHook) redis.ProcessHook { return next }
func (h *failures) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, commands []redis.Cmder) error {
		if h.left == 0 {
			return next(ctx, commands)
		}
		h.left--
		h.passing()
		for _, command := range commands {
			command.SetErr(errAway)
		}
		return errAway
	}
}

// rest has a decider forget what is committed, until it has nothing more to forget.
func (r *rig) rest(decider stream.PartitionDecider, committed int64) {
	r.Helper()
	const most = 1000
	for range most {
		if !decider.Rest(r.Context(), committed) {
			return
		}
	}
	r.Fatal("it does not come to rest")
}
