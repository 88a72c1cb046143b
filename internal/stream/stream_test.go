package stream_test

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	kafkago "github.com/segmentio/kafka-go"
	"github.com/twmb/franz-go/pkg/kgo"

	"tollgate/internal/kafka"
	"tollgate/internal/servertest"
	"tollgate/internal/stream"
)

func TestMain(m *testing.M) { os.Exit(servertest.Main(m)) }

const (
	partitions = 3
	patience   = 60 * time.Second
)

// echo writes every record to another topic and keeps count of what it saw.
type echo struct {
	out      string
	consumer *stream.Consumer
	ended    atomic.Bool // Run has returned

	mutex   sync.Mutex
	seen    []kafka.Message
	settled int
	inHand  int
	// What observers are told.
	lags        map[int]lag // by partition
	generations int         // that were joined
	assigned    int         // partitions, -1 while not joined
	skipped     int64
	signature   string        // is put on what it writes
	block       chan struct{} // nothing is decided until it is closed; nil: at once
	changed     chan struct{}
	lost        bool // answer that the partition is lost
	// lifetimes are those of the batches, by partition, one after the other.
	lifetimes map[int][]string
}

func (e *echo) Partition(string, int) stream.PartitionDecider { return e }
func (e *echo) Rest(context.Context, int64) bool              { return false }

func (e *echo) Decide(ctx context.Context, batch stream.Batch) (stream.Decision, error) {
	var block chan struct{}
	e.with(func() { block = e.block })
	if block != nil {
		select {
		case <-block:
		case <-ctx.Done():
			return stream.Decision{}, context.Cause(ctx)
		}
	}
	e.mutex.Lock()
	defer e.mutex.Unlock()
	if known := e.lifetimes[batch.Partition]; len(known) == 0 || known[len(known)-1] != batch.Lifetime {
		e.lifetimes[batch.Partition] = append(known, batch.Lifetime)
	}
	if e.lost {
		e.lost = false
		return stream.Decision{}, stream.ErrPartitionLost
	}
	var out []kafka.Message
	for _, record := range batch.Records {
		e.seen = append(e.seen, record)
		headers := record.Headers
		if e.signature != "" {
			headers = append(slices.Clone(headers), kafka.Header{Key: "by", Value: []byte(e.signature)})
		}
		out = append(out, kafka.Message{Topic: e.out, Partition: -1, Key: record.Key, Value: record.Value, Headers: headers})
	}
	return stream.Decision{Records: out, Next: batch.Next}, nil
}

func (e *echo) Dropped(string, int) {}
func (e *echo) Retried()            {}

func (e *echo) Assigned(partitions int) {
	e.mutex.Lock()
	defer e.mutex.Unlock()
	if partitions >= 0 {
		e.generations++
	}
	e.assigned = partitions
}

func (e *echo) Lagging(_ string, partition int, records int64, oldest time.Duration) {
	e.mutex.Lock()
	defer e.mutex.Unlock()
	if e.lags == nil {
		e.lags = map[int]lag{}
	}
	e.lags[partition] = lag{records, oldest}
}

func (e *echo) Skipped(_ string, _ int, records int64) {
	e.mutex.Lock()
	defer e.mutex.Unlock()
	e.skipped += records
}

// with looks at what was seen.
func (e *echo) with(look func()) {
	e.mutex.Lock()
	defer e.mutex.Unlock()
	look()
}

// lag is what was told of a partition.
type lag struct {
	records int64
	oldest  time.Duration
}

func (e *echo) InHand(more int) {
	e.mutex.Lock()
	defer e.mutex.Unlock()
	e.inHand += more
}
func (e *echo) Settled(batch stream.Batch) {
	e.mutex.Lock()
	defer e.mutex.Unlock()
	e.settled += len(batch.Records)
	close(e.changed)
	e.changed = make(chan struct{})
}

func (e *echo) await(t *testing.T, settled int) {
	t.Helper()
	timeout := time.After(patience)
	for {
		e.mutex.Lock()
		enough, changed := e.settled >= settled, e.changed
		e.mutex.Unlock()
		if enough {
			return
		}
		select {
		case <-changed:
		case <-timeout:
			t.Fatalf("%d of %d records were settled", e.settled, settled)
		}
	}
}

// setting is an input and an output topic with a group of consumers in between.
type setting struct {
	*testing.T
	broker    kafka.Broker
	in, out   string
	group     string
	publisher *kafka.Publisher
	// exactlyOnce is how consumers deliver.
	exactlyOnce bool
	register    *register
	adjust      func(*stream.Options) // nil: not at all
}

// eachDelivery runs a test for either way of delivering.
func eachDelivery(t *testing.T, test func(s *setting)) {
	for name, exactlyOnce := range map[string]bool{"at least once": false, "exactly once": true} {
		t.Run(name, func(t *testing.T) {
			s := newSetting(t)
			s.exactlyOnce = exactlyOnce
			test(s)
		})
	}
}

func newSetting(t *testing.T) *setting { return settingOn(t, servertest.Broker(t)) }

func settingOn(t *testing.T, broker kafka.Broker) *setting {
	name := servertest.Unique("stream")
	s := &setting{T: t, broker: broker, in: name + ".in", out: name + ".out", group: name, register: newRegister()}
	servertest.CreateTopics(t, s.broker, partitions, s.in, s.out)
	s.publisher = kafka.NewPublisher(s.broker, kafka.PublisherOptions{}, servertest.Logger(t))
	return s
}

// replace writes a short record in the place of a large one.
func replace(record kafka.Message, err error) ([]kafka.Message, bool) {
	if kafka.IsTopicRefused(err) {
		return nil, false
	}
	record.Value = record.Value[:6]
	return []kafka.Message{record}, true
}

// plainly has no record replaced.
var plainly = kafka.Delivery{Refused: func(kafka.Message, error) ([]kafka.Message, bool) { return nil, true }}

// consumer starts a member of the group; stop ends it and waits.
func (s *setting) consumer() (e *echo, stop func()) {
	s.Helper()
	e, end := s.start()
	stop = sync.OnceFunc(func() {
		if err := end(); err != nil {
			s.Error(err)
		}
	})
	s.Cleanup(stop)
	return e, stop
}

// start starts a member of the group; end ends it and returns what its Run has.
func (s *setting) start() (e *echo, end func() error) {
	s.Helper()
	e = &echo{out: s.out, changed: make(chan struct{}), lifetimes: map[int][]string{}}
	options := stream.Options{
		Group: s.group, Topics: []string{s.in}, SessionTimeout: 6 * time.Second, BatchMax: 7, ShutdownTimeout: 5 * time.Second, Refused: replace,
		ExactlyOnce: s.exactlyOnce, Lifetimes: s.register,
	}
	if s.adjust != nil {
		s.adjust(&options)
	}
	e.consumer = stream.NewConsumer(s.broker, options, e, s.publisher, servertest.Logger(s.T), e)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() {
		err := e.consumer.Run(ctx)
		e.ended.Store(true)
		done <- err
	}()
	return e, func() error {
		cancel()
		return <-done
	}
}

// send sends numbered records of ten keys.
func (s *setting) send(from, to int) {
	s.Helper()
	var records []kafka.Message
	for i := from; i < to; i++ {
		records = append(records, kafka.Message{Topic: s.in, Partition: -1, Key: fmt.Appendf(nil, "key-%d", i%10), Value: fmt.Appendf(nil, "%06d", i)})
	}
	if err := s.publisher.Publish(s.Context(), records, plainly); err != nil {
		s.Fatal(err)
	}
}

// valuesByKey reads the output topic: the values of each key, in order.
func (s *setting) valuesByKey() map[string][]string {
	s.Helper()
	records, err := servertest.NewDrain(s.T, s.broker, s.out).Next(s.Context())
	if err != nil {
		s.Fatal(err)
	}
	values := map[string][]string{}
	for _, record := range records {
		values[string(record.Key)] = append(values[string(record.Key)], string(record.Value))
	}
	return values
}

// mustHave fails unless each key has all of its values, in order once repeats are
// left out; exactly once there must be none of these.
func (s *setting) mustHave(n int) (repeats int) {
	s.Helper()
	defer func() {
		if s.exactlyOnce && repeats > 0 {
			s.Errorf("%d repeats", repeats)
		}
	}()
	for key, values := range s.valuesByKey() {
		var first []string
		for _, value := range values {
			if slices.Contains(first, value) {
				repeats++
				continue
			}
			first = append(first, value)
		}
		if !slices.IsSorted(first) || len(first) != n/10 {
			s.Errorf("%s: %d values of %d, in order: %t", key, len(first), n/10, slices.IsSorted(first))
		}
	}
	return repeats
}

func TestWhatWasPublishedIsCommitted(t *testing.T) { eachDelivery(t, whatWasPublishedIsCommitted) }

func whatWasPublishedIsCommitted(s *setting) {
	s.send(0, 500)
	first, stop := s.consumer()
	first.await(s.T, 500)
	stop()
	s.send(500, 600)
	second, stop := s.consumer()
	second.await(s.T, 100)
	stop()
	if len(second.seen) != 100 {
		s.Errorf("the second consumer was given %d records, not the 100 new ones", len(second.seen))
	}
	if repeats := s.mustHave(600); repeats > 0 {
		s.Errorf("%d records were repeated without need", repeats)
	}
}

// TestAPartitionThatIsAddedIsConsumed, and what was sent to it before anybody noticed is, too.
func TestAPartitionThatIsAddedIsConsumed(t *testing.T) {
	s := newSetting(t)
	s.send(0, 100)
	e, _ := s.consumer()
	e.await(t, 100)
	response, err := s.broker.Client.CreatePartitions(t.Context(), &kafkago.CreatePartitionsRequest{
		Topics: []kafkago.TopicPartitionsConfig{{Name: s.in, Count: partitions + 1}},
	})
	if err == nil {
		err = response.Errors[s.in]
	}
	if err != nil {
		t.Fatal(err)
	}
	// A client of its own: the other knows the topic as it was.
	late := kafka.NewPublisher(servertest.BrokerAt(t, s.broker.Addresses[0]), kafka.PublisherOptions{}, servertest.Logger(t))
	if err := late.Publish(t.Context(), []kafka.Message{{Topic: s.in, Partition: partitions, Key: []byte("late"), Value: []byte("000100")}}, plainly); err != nil {
		t.Fatal(err)
	}
	e.await(t, 101)
	if last := e.seen[len(e.seen)-1]; last.Partition != partitions || string(last.Key) != "late" {
		t.Errorf("the last record is %s of partition %d", last.Key, last.Partition)
	}
}

func TestPartitionsAreHandedOverInOrder(t *testing.T) {
	eachDelivery(t, partitionsAreHandedOverInOrder)
}

func partitionsAreHandedOverInOrder(s *setting) {
	first, stopFirst := s.consumer()
	s.send(0, 100)
	first.await(s.T, 100)
	second, _ := s.consumer()
	n := 100
	sendUntil := func(enough func() bool) {
		for deadline := time.Now().Add(patience); !enough(); n += 10 {
			s.send(n, n+10)
			if time.Now().After(deadline) {
				s.Fatal("the partitions were not handed over")
			}
		}
	}
	// Records come all the time: while the second takes its share over, and while the
	// first leaves.
	sendUntil(func() bool { return second.count() > 50 })
	left := make(chan struct{})
	go func() {
		defer close(left)
		stopFirst()
	}()
	gone := func() bool {
		select {
		case <-left:
			return true
		default:
			return false
		}
	}
	sendUntil(gone)
	alone := second.count() + 100
	sendUntil(func() bool { return second.count() > alone })
	s.awaitAll(n)
	s.mustHave(n)
}

// count is how many records were settled.
func (e *echo) count() int {
	e.mutex.Lock()
	defer e.mutex.Unlock()
	return e.settled
}

// awaitAll waits until so many different records are in the output topic.
func (s *setting) awaitAll(n int) {
	s.Helper()
	for deadline := time.Now().Add(patience); ; {
		seen := 0
		for _, values := range s.valuesByKey() {
			seen += len(slices.Compact(slices.Sorted(slices.Values(values))))
		}
		if seen == n {
			return
		}
		if time.Now().After(deadline) {
			s.Fatalf("%d of %d records came through", seen, n)
		}
	}
}

func TestALostPartitionIsTakenUpAgainFromWhatIsCommitted(t *testing.T) {
	eachDelivery(t, aLostPartitionIsTakenUpAgain)
}

func aLostPartitionIsTakenUpAgain(s *setting) {
	e, _ := s.consumer()
	e.mutex.Lock()
	e.lost = true
	e.mutex.Unlock()
	s.send(0, 100)
	e.await(s.T, 100)
	s.mustHave(100)
}

func TestRecordsOfAbortedTransactionsAreNotHandedOut(t *testing.T) {
	s := newSetting(t)
	producer, err := kgo.NewClient(kgo.SeedBrokers(servertest.KafkaAddr(t)), kgo.TransactionalID(s.group), kgo.DefaultProduceTopic(s.in))
	if err != nil {
		t.Fatal(err)
	}
	defer producer.Close()
	for i, end := range []kgo.TransactionEndTry{kgo.TryAbort, kgo.TryCommit, kgo.TryAbort, kgo.TryCommit} {
		if err := producer.BeginTransaction(); err != nil {
			t.Fatal(err)
		}
		for n := range 30 {
			word := "aborted"
			if end == kgo.TryCommit {
				word = "committed"
			}
			record := &kgo.Record{Key: fmt.Appendf(nil, "key-%d", n), Value: fmt.Appendf(nil, "%s %d", word, i)}
			if err := producer.ProduceSync(t.Context(), record).FirstErr(); err != nil {
				t.Fatal(err)
			}
		}
		if err := producer.EndTransaction(t.Context(), end); err != nil {
			t.Fatal(err)
		}
	}
	e, stop := s.consumer()
	e.await(t, 60)
	stop()
	for _, record := range e.seen {
		if !strings.HasPrefix(string(record.Value), "committed") {
			t.Fatalf("handed out: %s", record.Value)
		}
	}
	if len(e.seen) != 60 {
		t.Errorf("%d records, want 60", len(e.seen))
	}
}

// TestTransactionsAbortedInAnotherOrderThanTheyBegan is a regression test: the broker lists
// aborted transactions in the order of their ends.
func TestTransactionsAbortedInAnotherOrderThanTheyBegan(t *testing.T) {
	s := newSetting(t)
	var producers []*kgo.Client
	for n := range 3 {
		producer, err := kgo.NewClient(kgo.SeedBrokers(servertest.KafkaAddr(t)), kgo.TransactionalID(fmt.Sprint(s.group, n)), kgo.DefaultProduceTopic(s.in))
		if err != nil {
			t.Fatal(err)
		}
		defer producer.Close()
		if err := producer.BeginTransaction(); err != nil {
			t.Fatal(err)
		}
		if err := producer.ProduceSync(t.Context(), &kgo.Record{Key: []byte("key"), Value: []byte("aborted")}).FirstErr(); err != nil {
			t.Fatal(err)
		}
		producers = append(producers, producer)
	}
	for _, producer := range slices.Backward(producers) {
		if err := producer.EndTransaction(t.Context(), kgo.TryAbort); err != nil {
			t.Fatal(err)
		}
	}
	records, err := servertest.NewDrain(t, s.broker, s.in).Next(t.Context())
	if err != nil || len(records) > 0 {
		t.Errorf("%d records were read, %v", len(records), err)
	}
}
