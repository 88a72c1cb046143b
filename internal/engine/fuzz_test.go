package engine_test

import (
	"encoding/json"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/segmentio/kafka-go"

	"tollgate/internal/servertest"
	"tollgate/internal/stream"
	"tollgate/internal/wire"
)

// answered is what every result has.
type answered struct {
	RequestID *string           `json:"request_id"`
	Allowed   *bool             `json:"allowed"`
	OK        *bool             `json:"ok"`
	Error     *wire.ErrorRecord `json:"error"`
}

// FuzzRecords: whatever comes through Kafka is answered with one result, and with an
// event where something was deducted, or is a dead letter, byte for byte; and comes out
// the same a second time.
func FuzzRecords(f *testing.F) {
	for _, seed := range []string{
		`{"customer_id":"acme","feature_id":"messages","send_event":true,"required_balance":2,"properties":{"a":1},"with_preview":true}`,
		`{"customer_id":"acme","feature_id":"credits","entity_id":"ann","required_balance":-1e3,"send_event":true}`,
		`{"customer_id":"acme","feature_id":"sso"}`, `{"customer_id":"acme{}*\n\u0000","feature_id":"{","send_event":true}`, "{", "[]", "", "\xff",
		`{"type":"customer.put","customer_id":"acme","metadata":{"a":[{}]},"email":"a@b"}`,
		`{"type":"plan.attach","customer_id":"acme","plan_id":"pro","quantities":{"messages":3},"starts_at":1}`,
		`{"type":"balance.grant","customer_id":"acme","feature_id":"messages","amount":9007199254740991,"reset":{"interval":"minute","interval_count":7},"expires_at":99999999999999}`,
		`{"type":"balance.update","customer_id":"acme","feature_id":"messages","add":-0.5}`,
		`{"type":"usage.track","customer_id":"acme","event_name":"x","value":1e15,"overage_behavior":"allow"}`,
		`{"type":"entity.create","customer_id":"acme","entity_id":"ann","feature_id":"seats"}`, `{"type":"customer.delete","customer_id":"acme"}`,
	} {
		for _, isCommand := range []bool{false, true} {
			f.Add(isCommand, []byte("acme"), []byte(seed), "idempotency-key", []byte("k"), int64(1))
		}
	}
	f.Add(false, []byte(nil), []byte(`{"customer_id":"acme","feature_id":"messages"}`), "reply-topic", []byte("usage-events"), int64(-1))
	now := time.UnixMilli(1_790_000_000_000)
	e := newEngine(f, servertest.Redis(f), servertest.Unique("fuzz")+":", func() time.Time { return now })
	deciders := map[string]stream.PartitionDecider{topics.Checks: e.Partition(topics.Checks, 0), topics.Commands: e.Partition(topics.Commands, 0)}
	offset := int64(0)
	f.Fuzz(func(t *testing.T, isCommand bool, key, value []byte, headerKey string, headerValue []byte, timeMs int64) {
		topic, results := topics.Checks, topics.CheckResults
		if isCommand {
			topic, results = topics.Commands, topics.CommandResults
		}
		offset++
		record := kafka.Message{
			Topic: topic, Offset: offset, Key: key, Value: value, Time: time.UnixMilli(timeMs % (1 << 42)),
			Headers: []kafka.Header{{Key: headerKey, Value: headerValue}},
		}
		decide := func() []kafka.Message {
			out, err := deciders[topic].Decide(t.Context(), stream.Batch{Topic: topic, Generation: 1, Records: []kafka.Message{record}})
			if err != nil {
				t.Fatal(err)
			}
			return out.Records
		}
		out := decide()
		var result answered
		if len(out) == 0 || out[0].Topic != results || json.Unmarshal(out[0].Value, &result) != nil || result.RequestID == nil {
			t.Fatalf("no result: %+v", out)
		}
		refused := (result.Allowed != nil && !*result.Allowed) || (result.OK != nil && !*result.OK)
		for _, other := range out[1:] {
			switch {
			case other.Topic == topics.UsageEvents && !refused:
			case other.Topic == topics.UsageEvents && isCommand: // a command may track some of its features
			case other.Topic == topics.DeadLetters && refused && result.Error != nil:
				alive, _, err := wire.Revived(&other)
				if err != nil || string(alive.Key) != string(key) || string(alive.Value) != string(value) || !reflect.DeepEqual(alive.Headers, record.Headers) {
					t.Fatalf("another dead letter than the record, %v: %+v", err, other)
				}
			default:
				t.Fatalf("unexpected, beside %s: %+v", out[0].Value, other)
			}
			if other.Topic == topics.UsageEvents && !json.Valid(other.Value) {
				t.Fatalf("the event is no JSON: %s", other.Value)
			}
		}
		if strings.Contains(string(out[0].Value), `"internal_error"`) {
			t.Fatalf("%s: %s", value, out[0].Value)
		}
		if again := decide(); isRemembered(out) && !reflect.DeepEqual(values(again), values(out)) {
			t.Fatalf("%s\nthe first time: %q\nredelivered: %q", value, values(out), values(again))
		}
	})
}

// isRemembered says that something was deducted, which a redelivery must not do again.
func isRemembered(out []kafka.Message) bool {
	return len(out) > 1 && out[1].Topic == topics.UsageEvents
}

func values(records []kafka.Message) (all []string) {
	for _, record := range records {
		all = append(all, string(record.Value))
	}
	return all
}
