package oracle

import (
	"context"
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/segmentio/kafka-go"
	"pgregory.net/rapid"

	"tollgate/internal/balance"
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

var inputs = []string{topics.Checks, topics.Commands}

// driver sends the same requests to the engine and to the oracle.
type driver struct {
	server     *server
	engine     *engine.Engine
	generation int                                // of the consumer group
	deciders   map[string]stream.PartitionDecider // by topic, of partition 0
	catalogs   []*balance.Catalog
	world      *world
	now        time.Time // the engine's clock
	entities   []string  // to draw from
	crowded    bool      // customers have hundreds of entities: some requests are about as many
	sent       map[string][]sent
	committed  map[string]int64
	inFlight   map[string][]delivery // of this generation, not committed
	frozen     []delivery            // of earlier generations
}

// sent is a record, with what came of it the first time.
type sent struct {
	request request
	record  kafka.Message
	want    *answer // the oracle's, as of the first time; nil: it has not been asked
	out     []kafka.Message
}

// delivery is a batch that was handed to a decider.
type delivery struct {
	decider stream.PartitionDecider
	batch   stream.Batch
}

func newDriver(t *rapid.T, server *server, catalogs []*balance.Catalog) *driver {
	d := &driver{
		server: server, catalogs: catalogs, entities: slices.Clone(entities),
		sent: map[string][]sent{}, committed: map[string]int64{}, inFlight: map[string][]delivery{}, deciders: map[string]stream.PartitionDecider{},
	}
	d.now = time.UnixMilli(rapid.Int64Range(1735689600_000, 1767225599_999).Draw(t, "begin")).UTC()
	d.world = &world{catalog: catalogs[0], now: d.now, customers: map[string]*customer{}}
	st, err := store.New(server.client, store.Options{Prefix: servertest.Unique("oracle") + ":"})
	if err != nil {
		t.Fatal(err)
	}
	d.engine = engine.New(st, catalogs[0], engine.Options{
		Topics: topics, IdempotencyWindow: window, Clock: func() time.Time { return d.now },
	}, servertest.Silent(), ops.NewMetrics())
	d.nextGeneration()
	return d
}

// nextGeneration assigns the partitions anew.
func (d *driver) nextGeneration() {
	d.generation++
	for _, topic := range inputs {
		d.deciders[topic] = d.engine.Partition(topic, 0)
	}
}

// send sends a few requests of one topic in one batch.
func (d *driver) send(t *rapid.T) {
	d.sendTo(t, one(t, "topic", topics.Checks, topics.Checks, topics.Commands))
}

func (d *driver) sendTo(t *rapid.T, topic string) {
	from := d.draw(t, topic)
	d.decide(t, topic, from)
}

// draw adds a few requests of a topic, and returns the place of the first.
func (d *driver) draw(t *rapid.T, topic string) (from int) {
	from = len(d.sent[topic])
	for range rapid.IntRange(1, 6).Draw(t, "batch") {
		d.add(topic, d.drawRequest(t, topic))
	}
	return from
}

// hold sends a few checks that hold what they take.
func (d *driver) hold(t *rapid.T) {
	from := len(d.sent[topics.Checks])
	for range rapid.IntRange(1, 4).Draw(t, "batch") {
		d.add(topics.Checks, d.drawHold(t))
	}
	d.decide(t, topics.Checks, from)
}

func (d *driver) drawHold(t *rapid.T) request {
	r := drawCheck(t, d.world, d.entities)
	drawLock(t, d.world, &r)
	return r
}

// settle sends a few commands about locks.
func (d *driver) settle(t *rapid.T) {
	from := len(d.sent[topics.Commands])
	for range rapid.IntRange(1, 4).Draw(t, "batch") {
		d.add(topics.Commands, d.drawSettlement(t))
	}
	d.decide(t, topics.Commands, from)
}

func (d *driver) drawSettlement(t *rapid.T) request {
	r := request{Type: one(t, "type", "lock.finalize", "lock.finalize", "lock.finalize", "lock.finalize", "lock.extend", "lock.get"), Customer: customers[0], Key: drawKey(t)}
	drawLockCommand(t, d.world, &r)
	return r
}

func (d *driver) drawRequest(t *rapid.T, topic string) request {
	var r request
	if topic == topics.Checks {
		r = drawCheck(t, d.world, d.entities)
	} else {
		r = drawCommand(t, d.world, d.entities)
	}
	isAmount := r.Type == "" || r.Type == "usage.track" || r.Type == "balance.update"
	if d.crowded && isAmount && max(r.Units, -r.Units) < 1<<20 && rapid.Bool().Draw(t, "of many") {
		r.Units *= 25
	}
	if !seldom(t, "a key again", 2) {
		return r
	}
	// The same question again, nearly the same, or another.
	keyed := slices.DeleteFunc(slices.Concat(d.sent[topics.Checks], d.sent[topics.Commands]), func(s sent) bool { return s.request.Key == "" })
	if len(keyed) == 0 {
		return r
	}
	earlier := keyed[rapid.IntRange(0, len(keyed)-1).Draw(t, "earlier")].request
	if sameTopic := (earlier.Type == "") == (topic == topics.Checks); !sameTopic || rapid.Bool().Draw(t, "another question") {
		r.Customer, r.Key = earlier.Customer, earlier.Key
		return r
	}
	switch earlier.Type {
	case "", "usage.track", "balance.update", "balance.grant":
		if seldom(t, "another entity", 2) {
			earlier.Entity = drawEntity(t, d.entities)
		}
		if seldom(t, "another amount", 2) && earlier.Units > 1 {
			earlier.Units--
		}
	}
	isAboutLock := earlier.Lock || strings.HasPrefix(earlier.Type, "lock.")
	if isAboutLock && seldom(t, "another lock", 2) {
		earlier.LockID = one(t, "lock_id", lockIDs...)
	}
	if earlier.Type == "" && seldom(t, "lock or not", 3) {
		earlier.Lock = !earlier.Lock
	}
	return earlier
}

func (d *driver) add(topic string, r request) {
	record := kafka.Message{
		Topic: topic, Offset: int64(len(d.sent[topic])), Time: d.now, Key: []byte(r.Customer), Value: encode(d.world.catalog, &r),
		Headers: []kafka.Header{{Key: wire.HeaderRequestID, Value: fmt.Appendf(nil, "r%d", len(d.sent[topic]))}},
	}
	if r.Key != "" {
		record.Headers = append(record.Headers, kafka.Header{Key: wire.HeaderIdempotencyKey, Value: []byte(r.Key)})
	}
	if !r.Deadline.IsZero() {
		record.Headers = append(record.Headers, kafka.Header{Key: wire.HeaderExpiresAt, Value: fmt.Append(nil, r.Deadline.UnixMilli())})
	}
	d.sent[topic] = append(d.sent[topic], sent{request: r, record: record})
}

// decide has the engine decide the records from an offset on as one batch, and the
// oracle each of them; the answers must be the same.
func (d *driver) decide(t *rapid.T, topic string, from int) {
	if from == len(d.sent[topic]) {
		return
	}
	out, err := d.deliver(deadline, topic, from)
	if err != nil {
		t.Fatal(err)
	}
	d.compare(t, topic, from, out)
}

// deadline is for what nothing stands against: an engine that tries again and again, for ever,
// fails the test.
const deadline = time.Minute

// deliver hands the records from an offset on to the engine, as one batch.
func (d *driver) deliver(patience time.Duration, topic string, from int) ([]kafka.Message, error) {
	batch := stream.Batch{Topic: topic, Generation: d.generation, Committed: d.committed[topic]}
	for _, s := range d.sent[topic][from:] {
		batch.Records = append(batch.Records, s.record)
	}
	d.inFlight[topic] = append(d.inFlight[topic], delivery{d.deciders[topic], batch})
	return decideWithin(patience, d.deciders[topic], batch)
}

func decideWithin(patience time.Duration, decider stream.PartitionDecider, batch stream.Batch) ([]kafka.Message, error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	decision, err := decider.Decide(ctx, batch)
	return decision.Records, err
}

// compare holds what the engine made of the records from an offset on against the first
// answers.
func (d *driver) compare(t *rapid.T, topic string, from int, out []kafka.Message) {
	for i := from; i < len(d.sent[topic]); i++ {
		s := &d.sent[topic][i]
		mine := outOf(&out)
		if s.out != nil && s.request.remembered() {
			sameAsFirst(t, s, mine)
			continue
		}
		first := s.want
		d.ask(s)
		s.out = mine
		got := read(t, mine)
		if s.request.Type != "" && got.Code != "" {
			got.Pools = nil // what a refusal shows is for people
		}
		if first != nil && reflect.DeepEqual(*first, got) {
			continue // what need not be remembered may be
		}
		if !reflect.DeepEqual(*s.want, got) {
			t.Fatalf("at %s, to %s %v\n%s", d.now.Format(time.RFC3339Nano), s.record.Value, s.record.Headers, differences(*s.want, got))
		}
	}
	if len(out) > 0 {
		t.Fatalf("records too many: %s", texts(out))
	}
}

// ask has the oracle answer a request, where it has not or has to again.
func (d *driver) ask(s *sent) {
	if s.want == nil || !s.request.remembered() {
		want := d.world.answerTo(&s.request, wire.EventID(&s.record, 0))
		s.want = &want
	}
}

func sameAsFirst(t *rapid.T, s *sent, mine []kafka.Message) {
	if !sameRecords(mine, s.out) {
		t.Fatalf("%s\nwas answered %s\nand redelivered %s", s.record.Value, texts(s.out), texts(mine))
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

func drawTopic(t *rapid.T) string { return rapid.SampledFrom(inputs).Draw(t, "topic") }

// redeliver hands out everything that is not committed once more, as after a crash.
func (d *driver) redeliver(t *rapid.T) { d.redeliverTopic(t, drawTopic(t)) }

func (d *driver) redeliverTopic(t *rapid.T, topic string) {
	d.decide(t, topic, int(d.committed[topic]))
}

// rebalance begins another generation of the consumer group. What is not committed comes
// again, and the workers of before may still be at it.
func (d *driver) rebalance(t *rapid.T) {
	const mostFrozen = 6
	for _, topic := range inputs {
		for _, f := range d.inFlight[topic] {
			// A worker commits nothing of a batch that it is still at.
			if f.batch.Records[0].Offset >= d.committed[topic] {
				d.frozen = append(d.frozen, f)
			}
		}
		d.inFlight[topic] = nil
	}
	d.frozen = d.frozen[max(0, len(d.frozen)-mostFrozen):]
	d.nextGeneration()
	for _, topic := range inputs {
		d.redeliverTopic(t, topic)
	}
}

func (d *driver) commit(t *rapid.T) {
	topic := drawTopic(t)
	d.commitUpTo(topic, rapid.Int64Range(d.committed[topic], int64(len(d.sent[topic]))).Draw(t, "committed"))
}

func (d *driver) commitUpTo(topic string, offset int64) {
	d.committed[topic] = offset
	d.inFlight[topic] = slices.DeleteFunc(d.inFlight[topic], func(f delivery) bool {
		return f.batch.Records[len(f.batch.Records)-1].Offset < offset
	})
}

// rest gives the engine time to forget what is committed.
func (d *driver) rest(t *rapid.T) { d.restAt(drawTopic(t)) }

func (d *driver) restAt(topic string) {
	d.deciders[topic].Rest(context.Background(), d.committed[topic])
}
