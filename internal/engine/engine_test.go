package engine_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/segmentio/kafka-go"

	"tollgate/deploy"
	"tollgate/internal/catalog"
	"tollgate/internal/engine"
	"tollgate/internal/ops"
	"tollgate/internal/servertest"
	"tollgate/internal/store"
	"tollgate/internal/stream"
	"tollgate/internal/wire"
)

func TestMain(m *testing.M) { os.Exit(servertest.Main(m)) }

var topics = wire.Topics{
	Checks: "checks", CheckResults: "check-results", UsageEvents: "usage-events",
	Commands: "commands", CommandResults: "command-results", DeadLetters: "dead-letters",
}

type fixture struct {
	*testing.T
	engine *engine.Engine
	client *redis.Client
	prefix string
	offset int64
}

func newFixture(t *testing.T) *fixture {
	t.Helper()
	f := &fixture{T: t, client: servertest.Redis(t), prefix: servertest.Unique("engine") + ":"}
	f.engine = newEngine(t, f.client, f.prefix, time.Now)
	f.decide(topics.Commands, `{"type":"customer.put","customer_id":"acme"}`)
	return f
}

// newEngine makes an engine with the example's catalogue.
func newEngine(t testing.TB, client *redis.Client, prefix string, clock func() time.Time) *engine.Engine {
	t.Helper()
	st, err := store.New(client, store.Options{Prefix: prefix})
	if err != nil {
		t.Fatal(err)
	}
	rules, err := catalog.Parse(deploy.Catalog)
	if err != nil {
		t.Fatal(err)
	}
	return engine.New(st, rules, engine.Options{Topics: topics, IdempotencyWindow: time.Hour, Clock: clock}, servertest.Silent(), ops.NewMetrics())
}

// decide decides one record.
func (f *fixture) decide(topic, value string) []kafka.Message {
	f.Helper()
	f.offset++
	record := kafka.Message{Topic: topic, Offset: f.offset, Time: time.Now(), Key: []byte("acme"), Value: []byte(value)}
	out, err := f.engine.Partition(topic, 0).Decide(f.Context(), stream.Batch{Topic: topic, Generation: 1, Records: []kafka.Message{record}})
	if err != nil {
		f.Fatal(err)
	}
	return out.Records
}

func TestAStateThatNoScriptCanReadStopsNobody(t *testing.T) {
	f := newFixture(t)
	key := f.prefix + "{acme}"
	if err := f.client.Set(t.Context(), key, "\xc1 this is no MessagePack", 0).Err(); err != nil {
		t.Fatal(err)
	}
	out := f.decide(topics.Checks, `{"customer_id":"acme","feature_id":"messages","send_event":true}`)
	var result wire.ResultRecord
	if len(out) != 2 || out[0].Topic != topics.CheckResults || out[1].Topic != topics.DeadLetters || json.Unmarshal(out[0].Value, &result) != nil {
		t.Fatalf("got %+v", out)
	}
	if result.Allowed || result.Code != "internal_error" || result.Error == nil {
		t.Errorf("got %s", out[0].Value)
	}
	out = f.decide(topics.Commands, `{"type":"customer.get","customer_id":"acme"}`)
	if len(out) != 2 || !strings.Contains(string(out[0].Value), `"code":"internal_error"`) {
		t.Errorf("got %+v", out)
	}
	out = f.decide(topics.Checks, `{"customer_id":"other","feature_id":"messages"}`)
	if len(out) != 1 || !strings.Contains(string(out[0].Value), "customer_not_found") {
		t.Errorf("got %+v", out)
	}
}

func TestAResultThatNoBrokerTakesIsAnErrorAndADeadLetter(t *testing.T) {
	f := newFixture(t)
	tooLarge := fmt.Errorf("publish: %w", kafka.MessageSizeTooLarge)
	for _, c := range []struct{ topic, value, want string }{
		{topics.CheckResults, `{"request_id":"r","allowed":true,"code":"included","customer_id":"acme","feature_id":"messages","evaluated_at":5}`, `"allowed":false`},
		{topics.CommandResults, `{"request_id":"r","type":"customer.get","customer_id":"acme","ok":true,"balances":{}}`, `"ok":false`},
	} {
		record := kafka.Message{Topic: c.topic, Partition: 3, Key: []byte("acme"), Value: []byte(c.value), Headers: []kafka.Header{{Key: "request-id", Value: []byte("r")}}}
		out, ok := f.engine.Refused(record, tooLarge)
		if !ok || len(out) != 2 || out[0].Topic != topics.DeadLetters || string(out[0].Value) != c.value {
			t.Fatalf("got %+v", out)
		}
		if out[1].Topic != c.topic || out[1].Partition != 3 || len(out[1].Headers) != 1 || !strings.Contains(string(out[1].Value), c.want) || !strings.Contains(string(out[1].Value), `"request_id":"r"`) {
			t.Errorf("got %+v: %s", out[1], out[1].Value)
		}
	}
	if out, _ := f.engine.Refused(kafka.Message{Topic: topics.DeadLetters}, tooLarge); len(out) != 0 {
		t.Errorf("a dead letter's dead letter: %+v", out)
	}
}

// TestAReplyTopicThatIsGoneIsToldOnceForManyResults is a regression test: each result was a line of the log.
func TestAReplyTopicThatIsGoneIsToldOnceForManyResults(t *testing.T) {
	const gone = "replies-of-acme"
	var log bytes.Buffer
	f := newFixture(t)
	e := engine.New(nil, f.engine.Catalog(), engine.Options{Topics: topics, ReplyTopics: []string{gone}, Clock: time.Now},
		slog.New(slog.NewTextHandler(&log, nil)), ops.NewMetrics())
	for range 1000 {
		out, ok := e.Refused(kafka.Message{Topic: gone, Key: []byte("acme")}, kafka.UnknownTopicOrPartition)
		if !ok || len(out) != 1 || out[0].Topic != topics.CheckResults {
			t.Fatalf("got %+v", out)
		}
	}
	if lines := strings.Count(log.String(), "\n"); lines != 1 {
		t.Errorf("%d lines were logged for 1000 results", lines)
	}
}

// TestAKafkaMadeAnewIsAnotherKafka: its offsets and generations begin again, under a Redis
// that remembers those of the one before.
func TestAKafkaMadeAnewIsAnotherKafka(t *testing.T) {
	f := newFixture(t)
	decider := f.engine.Partition(topics.Checks, 0)
	for _, batch := range []stream.Batch{{Cluster: "old", Generation: 7}, {Cluster: "new", Generation: 1}} {
		for offset := range int64(2) {
			batch.Topic = topics.Checks
			batch.Records = []kafka.Message{{
				Topic: topics.Checks, Offset: offset, Time: time.UnixMilli(5), Value: []byte(`{"customer_id":"acme","feature_id":"messages","send_event":true}`),
			}}
			out, err := decider.Decide(t.Context(), batch)
			if err != nil || len(out.Records) != 2 {
				t.Fatalf("%s, offset %d: %v, %+v", batch.Cluster, offset, err, out)
			}
		}
	}
	var result wire.ResultRecord
	if err := json.Unmarshal(f.decide(topics.Checks, `{"customer_id":"acme","feature_id":"messages"}`)[0].Value, &result); err != nil {
		t.Fatal(err)
	}
	if result.Balance.Usage != "4" {
		t.Errorf("usage is %s, want 4", result.Balance.Usage)
	}
}

func TestAnUnreadableRecordIsADeadLetterAndAnError(t *testing.T) {
	f := newFixture(t)
	for topic, results := range map[string]string{topics.Checks: topics.CheckResults, topics.Commands: topics.CommandResults} {
		out := f.decide(topic, "\x00{")
		if len(out) != 2 || out[0].Topic != results || out[1].Topic != topics.DeadLetters || string(out[1].Value) != "\x00{" || string(out[1].Key) != "acme" {
			t.Fatalf("got %+v", out)
		}
		var result struct {
			RequestID  string            `json:"request_id"`
			CustomerID string            `json:"customer_id"`
			Error      *wire.ErrorRecord `json:"error"`
		}
		if err := json.Unmarshal(out[0].Value, &result); err != nil || result.Error == nil || result.Error.Code != "invalid_request" || result.CustomerID != "" {
			t.Errorf("%v: %s", err, out[0].Value)
		}
		if want := fmt.Sprintf("%s/0/%d", topic, f.offset); result.RequestID != want {
			t.Errorf("got %s, want %s", result.RequestID, want)
		}
	}
}
