// Package oracle says the rules of docs/semantics.md and docs/messages.md once more in
// plain Go, and its property test holds the engine, its scripts and Redis against what it
// says. The oracle is written for the reader: it walks every reset one by one and knows no
// Redis.
package oracle

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/segmentio/kafka-go"
	"pgregory.net/rapid"

	"tollgate/internal/balance"
	"tollgate/internal/catalog"
	"tollgate/internal/engine"
	"tollgate/internal/ops"
	"tollgate/internal/servertest"
	"tollgate/internal/store"
	"tollgate/internal/stream"
	"tollgate/internal/wire"
)

const window = 24 * time.Hour

var topics = wire.Topics{
	Checks: "checks", CheckResults: "check-results", UsageEvents: "usage-events",
	Commands: "commands", CommandResults: "command-results", DeadLetters: "dead-letters",
}

func TestMain(m *testing.M) {
	_ = flag.Set("rapid.steps", "50") // a reset that matters needs a longer story than the default
	os.Exit(servertest.Main(m))
}

func TestEngineAnswersAsTheOracle(t *testing.T) {
	client := servertest.Redis(t)
	var catalogs []*balance.Catalog
	for _, name := range []string{"one.yaml", "two.yaml"} {
		loaded, err := catalog.Load(filepath.Join("testdata", name))
		if err != nil {
			t.Fatal(err)
		}
		catalogs = append(catalogs, loaded)
	}
	rapid.Check(t, func(t *rapid.T) {
		d := newDriver(t, client, catalogs)
		d.provision(t)
		t.Repeat(map[string]func(*rapid.T){
			"send":           d.send,
			"send more":      d.send,
			"send even more": d.send,
			"redeliver":      d.redeliver,
			"commit":         d.commit,
			"rest":           d.rest,
			"pass time":      d.passTime,
			"new catalogue":  d.newCatalog,
			"flush scripts":  d.flushScripts,
			"":               d.invariants,
		})
	})
}

// driver sends the same requests to the engine and to the oracle.
type driver struct {
	client    *redis.Client
	engine    *engine.Engine
	deciders  map[string]stream.PartitionDecider // by topic, of partition 0
	catalogs  []*balance.Catalog
	world     *world
	now       time.Time // the engine's clock
	sent      map[string][]sent
	committed map[string]int64
}

// sent is a record, with what came of it the first time.
type sent struct {
	request request
	record  kafka.Message
	out     []kafka.Message
}

func newDriver(t *rapid.T, client *redis.Client, catalogs []*balance.Catalog) *driver {
	d := &driver{client: client, catalogs: catalogs, sent: map[string][]sent{}, committed: map[string]int64{}}
	d.now = time.UnixMilli(rapid.Int64Range(1735689600_000, 1767225599_999).Draw(t, "begin")).UTC()
	d.world = &world{catalog: catalogs[0], now: d.now, customers: map[string]*customer{}}
	st, err := store.New(client, store.Options{Prefix: servertest.Unique("oracle") + ":"})
	if err != nil {
		t.Fatal(err)
	}
	d.engine = engine.New(st, catalogs[0], engine.Options{
		Topics: topics, IdempotencyWindow: window, Clock: func() time.Time { return d.now },
	}, servertest.Silent(), ops.NewMetrics())
	d.deciders = map[string]stream.PartitionDecider{}
	for _, topic := range []string{topics.Checks, topics.Commands} {
		d.deciders[topic] = d.engine.Partition(topic, 0)
	}
	return d
}

// provision makes most of the customers, with plans and entities, so that what
// follows finds something.
func (d *driver) provision(t *rapid.T) {
	for _, name := range customers {
		if seldom(t, "unknown", 3) {
			continue
		}
		d.add(topics.Commands, request{Type: "customer.put", Customer: name})
		for range rapid.IntRange(0, 3).Draw(t, "plans") {
			r := request{Type: "plan.attach", Customer: name}
			r.Plan = d.world.catalog.Plans[rapid.IntRange(0, len(d.world.catalog.Plans)-1).Draw(t, "plan")].ID
			drawAttachment(t, d.world.catalog, &r, d.now)
			d.add(topics.Commands, r)
		}
		for _, id := range entities {
			if rapid.Bool().Draw(t, "has entity") {
				d.add(topics.Commands, request{Type: "entity.create", Customer: name, Entity: id, Feature: "seats", Units: 1})
			}
		}
	}
	d.decide(t, topics.Commands, 0)
}

// send sends a few requests of one topic in one batch.
func (d *driver) send(t *rapid.T) {
	checks := rapid.IntRange(0, 2).Draw(t, "checks") > 0
	topic := topics.Commands
	if checks {
		topic = topics.Checks
	}
	from := len(d.sent[topic])
	for range rapid.IntRange(1, 6).Draw(t, "batch") {
		var r request
		if checks {
			r = drawCheck(t, d.world.catalog)
		} else {
			r = drawCommand(t, d.world.catalog, d.now)
		}
		d.add(topic, r)
	}
	d.decide(t, topic, from)
}

func (d *driver) add(topic string, r request) {
	record := kafka.Message{
		Topic: topic, Offset: int64(len(d.sent[topic])), Time: d.now, Key: []byte(r.Customer), Value: encode(d.world.catalog, &r),
		Headers: []kafka.Header{{Key: wire.HeaderRequestID, Value: fmt.Appendf(nil, "r%d", len(d.sent[topic]))}},
	}
	if r.Key != "" {
		record.Headers = append(record.Headers, kafka.Header{Key: wire.HeaderIdempotencyKey, Value: []byte(r.Key)})
	}
	d.sent[topic] = append(d.sent[topic], sent{request: r, record: record})
}

// decide has the engine decide the records from an offset on as one batch, and the
// oracle each of them; the answers must be the same.
func (d *driver) decide(t *rapid.T, topic string, from int) {
	batch := stream.Batch{Topic: topic, Generation: 1, Committed: d.committed[topic]}
	for _, s := range d.sent[topic][from:] {
		batch.Records = append(batch.Records, s.record)
	}
	if len(batch.Records) == 0 {
		return
	}
	out, err := d.deciders[topic].Decide(context.Background(), batch)
	if err != nil {
		t.Fatal(err)
	}
	for i := from; i < len(d.sent[topic]); i++ {
		s := &d.sent[topic][i]
		mine := outOf(&out)
		if s.out != nil && s.request.remembered() {
			if !sameRecords(mine, s.out) {
				t.Fatalf("%s\nwas answered %s\nand redelivered %s", s.record.Value, texts(s.out), texts(mine))
			}
			continue
		}
		s.out = mine
		want, got := d.world.answerTo(&s.request, wire.EventID(&s.record, 0)), read(t, mine)
		if s.request.Type != "" && got.Code != "" {
			got.Pools = nil // what a refusal shows is for people
		}
		if !reflect.DeepEqual(want, got) {
			t.Fatalf("at %s, to %s\n%s", d.now.Format(time.RFC3339Nano), s.record.Value, differences(want, got))
		}
	}
	if len(out) > 0 {
		t.Fatalf("records too many: %s", texts(out))
	}
}

// outOf takes the records of one request: its result and the events behind it.
func outOf(out *[]kafka.Message) []kafka.Message {
	n := 1
	for n < len(*out) && (*out)[n].Topic == topics.UsageEvents {
		n++
	}
	mine := (*out)[:n]
	*out = (*out)[n:]
	return mine
}

func sameRecords(a, b []kafka.Message) bool {
	return slices.EqualFunc(a, b, func(a, b kafka.Message) bool {
		return a.Topic == b.Topic && string(a.Key) == string(b.Key) && string(a.Value) == string(b.Value) && reflect.DeepEqual(a.Headers, b.Headers)
	})
}

func texts(records []kafka.Message) string {
	var all []string
	for _, record := range records {
		all = append(all, string(record.Value))
	}
	return strings.Join(all, "\n")
}

// differences shows the fields in which two answers differ.
func differences(want, got answer) string {
	var all []string
	for i := range reflect.TypeFor[answer]().NumField() {
		w, g := reflect.ValueOf(want).Field(i).Interface(), reflect.ValueOf(got).Field(i).Interface()
		if !reflect.DeepEqual(w, g) {
			wantText, _ := json.Marshal(w)
			gotText, _ := json.Marshal(g)
			all = append(all, fmt.Sprintf("%s: want %s\n%s:  got %s", reflect.TypeFor[answer]().Field(i).Name, wantText,
				reflect.TypeFor[answer]().Field(i).Name, gotText))
		}
	}
	return strings.Join(all, "\n")
}

// redeliver hands out everything that is not committed once more, as after a crash.
func (d *driver) redeliver(t *rapid.T) {
	topic := rapid.SampledFrom([]string{topics.Checks, topics.Commands}).Draw(t, "topic")
	if from := int(d.committed[topic]); from < len(d.sent[topic]) {
		d.decide(t, topic, from)
	}
}

func (d *driver) commit(t *rapid.T) {
	topic := rapid.SampledFrom([]string{topics.Checks, topics.Commands}).Draw(t, "topic")
	d.committed[topic] = rapid.Int64Range(d.committed[topic], int64(len(d.sent[topic]))).Draw(t, "committed")
}

// rest gives the engine time to forget what is committed.
func (d *driver) rest(t *rapid.T) {
	topic := rapid.SampledFrom([]string{topics.Checks, topics.Commands}).Draw(t, "topic")
	d.deciders[topic].Rest(context.Background(), d.committed[topic])
}

// touchAll has everything that is due applied, so that what comes next finds the
// same on both sides: the engine applies a reset when it meets it, the oracle at once.
func (d *driver) touchAll(t *rapid.T) {
	from := len(d.sent[topics.Commands])
	for _, name := range customers {
		d.add(topics.Commands, request{Type: "customer.get", Customer: name})
	}
	d.decide(t, topics.Commands, from)
}

// passTime moves the clock on, mostly a little; sometimes back, as another worker's may be.
func (d *driver) passTime(t *rapid.T) {
	step := one(t, "step", time.Second, 40*time.Minute, 7*time.Hour, 23*time.Hour, 6*24*time.Hour, 17*24*time.Hour, 31*24*time.Hour, 800*24*time.Hour)
	step += time.Duration(rapid.IntRange(0, 999).Draw(t, "ms")) * time.Millisecond
	if seldom(t, "back", 3) {
		d.touchAll(t)
		step = -min(step, 2*time.Hour)
	}
	d.now = d.now.Add(step)
	d.world.now = d.now
}

func (d *driver) newCatalog(t *rapid.T) {
	d.touchAll(t)
	d.world.catalog = d.catalogs[rapid.IntRange(0, len(d.catalogs)-1).Draw(t, "catalogue")]
	// A preview shows the catalogue's plans of today, in a redelivery too.
	for topic := range d.sent {
		d.committed[topic] = int64(len(d.sent[topic]))
	}
	d.engine.SetCatalog(d.world.catalog)
}

// flushScripts is what a restart of Redis, or an operator, may do.
func (d *driver) flushScripts(t *rapid.T) {
	if err := d.client.ScriptFlush(context.Background()).Err(); err != nil {
		t.Fatal(err)
	}
}

// invariants of semantics, Deduction order, for every balance. The answers were the
// oracle's, so what holds for the oracle holds for Redis.
func (d *driver) invariants(t *rapid.T) {
	for _, c := range d.world.customers {
		for _, g := range c.grants {
			rolledIn := g.fromRollovers
			for _, r := range g.rollovers {
				rolledIn += r.left
			}
			if g.included+g.prepaid+rolledIn != g.remaining()+g.usage()-g.over {
				t.Fatalf("%s: granted %d + rolled in %d is not remaining %d + usage %d - overage %d",
					g.name(), g.included+g.prepaid, rolledIn, g.remaining(), g.usage(), g.over)
			}
			if g.usage() < 0 || g.left() < 0 || g.over < 0 || g.fromRollovers < 0 || g.usedIncluded < 0 || g.usedPrepaid < 0 {
				t.Fatalf("%s: an amount is negative: %+v", g.name(), g)
			}
		}
	}
}
