package conformance

import (
	"context"
	"fmt"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	kafkago "github.com/segmentio/kafka-go"

	"tollgate/internal/catalog"
	"tollgate/internal/engine"
	"tollgate/internal/kafka"
	"tollgate/internal/ops"
	"tollgate/internal/servertest"
	"tollgate/internal/store"
	"tollgate/internal/stream"
	"tollgate/internal/wire"
)

const (
	partitions = 2
	patience   = 30 * time.Second
)

// rig is a worker's consumer on topics of its own. The engine behind it is
// another one for every case, on a key space of its own; just the clock is ours.
type rig struct {
	stream.Observer
	topics    wire.Topics
	broker    kafka.Broker
	publisher *kafka.Publisher
	current   atomic.Pointer[engine.Engine]
	clock     atomic.Int64 // Unix ms

	results, usage, dead *servertest.Drain
	contracts            *contracts

	mutex   sync.Mutex
	settled map[string]string // lifetime by <topic>/<partition>/<offset>
	changed chan struct{}
}

// Partition makes the rig a stream.Decider.
func (r *rig) Partition(string, int) stream.PartitionDecider { return r }

func (r *rig) Decide(ctx context.Context, batch stream.Batch) (stream.Decision, error) {
	return r.current.Load().Partition(batch.Topic, batch.Partition).Decide(ctx, batch)
}

// Rest forgets nothing: a case may have a record delivered again that is committed.
func (r *rig) Rest(context.Context, int64) bool { return false }

// Settled notes the records whose results and events are all acknowledged.
func (r *rig) Settled(batch stream.Batch) {
	r.mutex.Lock()
	defer r.mutex.Unlock()
	for _, record := range batch.Records {
		r.settled[place(record.Topic, record.Partition, record.Offset)] = batch.Lifetime
	}
	close(r.changed)
	r.changed = make(chan struct{})
}

func place(topic string, partition int, offset int64) string {
	return fmt.Sprintf("%s/%d/%d", topic, partition, offset)
}

func newRig(t *testing.T) *rig {
	broker := servertest.Broker(t)
	name := servertest.Unique("conformance")
	topics := wire.Topics{
		Checks: name + ".checks", CheckResults: name + ".check-results", UsageEvents: name + ".usage-events",
		Commands: name + ".commands", CommandResults: name + ".command-results", DeadLetters: name + ".dead-letters",
	}
	// Checks and commands answer to one topic, so that one drain reads both.
	topics.CommandResults = topics.CheckResults
	servertest.CreateTopics(t, broker, partitions, topics.Checks, topics.CheckResults, topics.UsageEvents, topics.Commands, topics.DeadLetters)
	r := &rig{
		Observer: ops.NewMetrics(), topics: topics, broker: broker, settled: map[string]string{}, changed: make(chan struct{}),
		results: servertest.NewDrain(t, broker, topics.CheckResults),
		usage:   servertest.NewDrain(t, broker, topics.UsageEvents),
		dead:    servertest.NewDrain(t, broker, topics.DeadLetters), contracts: newContracts(t),
	}
	logger := servertest.Logger(t)
	r.publisher = kafka.NewPublisher(broker, kafka.PublisherOptions{}, logger)
	consumer := stream.NewConsumer(broker, stream.Options{
		Group: name, Topics: []string{topics.Checks, topics.Commands}, SessionTimeout: 10 * time.Second,
		BatchMax: 500, ShutdownTimeout: 5 * time.Second,
		Refused: func(_ kafka.Message, err error) ([]kafka.Message, bool) {
			t.Errorf("refused by the broker: %v", err)
			return nil, true
		},
	}, r, r.publisher, logger, r)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- consumer.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return r
}

// begin gives a case its engine: its catalogue, and an empty key space.
func (r *rig) begin(t *testing.T, folder string, c example) {
	cat, err := catalog.Load(filepath.Join(folder, c.Catalog))
	if err != nil {
		t.Fatal(err)
	}
	st, err := store.New(servertest.Redis(t), store.Options{Prefix: servertest.Unique("case") + ":"})
	if err != nil {
		t.Fatal(err)
	}
	now := c.Now
	if now == "" {
		now = "2026-01-15T12:00:00Z"
	}
	r.setClock(clockTime(t, now))
	r.current.Store(engine.New(st, cat, engine.Options{
		Topics: r.topics, IdempotencyWindow: 24 * time.Hour,
		Clock: func() time.Time { return time.UnixMilli(r.clock.Load()) },
	}, servertest.Logger(t), r.Observer.(*ops.Metrics)))
}

func (r *rig) setClock(now time.Time) { r.clock.Store(now.UnixMilli()) }

// send writes records in one request each, all at once, and waits until all that
// they led to is acknowledged.
func (r *rig) send(t *testing.T, topic string, records []kafka.Message) []kafka.Message {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	var wait sync.WaitGroup
	for i := range records {
		wait.Go(func() {
			record := &records[i]
			partition := kafkago.Murmur2Balancer{Consistent: true}.Balance(*record, 0, 1)
			record.Time = time.Now().Truncate(time.Millisecond)
			response, err := r.broker.Client.Produce(ctx, &kafkago.ProduceRequest{
				Topic: topic, Partition: partition, RequiredAcks: kafkago.RequireAll,
				Records: kafkago.NewRecordReader(kafkago.Record{
					Time: record.Time, Key: kafkago.NewBytes(record.Key), Value: kafkago.NewBytes(record.Value), Headers: record.Headers,
				}),
			})
			if err == nil {
				err = response.Error
			}
			if err != nil {
				t.Error(err)
				return
			}
			record.Topic, record.Partition, record.Offset = topic, partition, response.BaseOffset
		})
	}
	wait.Wait()
	if t.Failed() {
		t.FailNow()
	}
	for _, record := range records {
		r.awaitSettled(ctx, t, place(topic, record.Partition, record.Offset))
	}
	return records
}

func (r *rig) awaitSettled(ctx context.Context, t *testing.T, record string) {
	t.Helper()
	for {
		r.mutex.Lock()
		lifetime, changed := r.settled[record], r.changed
		r.mutex.Unlock()
		if lifetime != "" {
			return
		}
		select {
		case <-changed:
		case <-ctx.Done():
			t.Fatalf("record %s was not answered within %v", record, patience)
		}
	}
}

// redeliver hands a record to the engine once more, as after a crash before its
// commit, and publishes what comes of it.
func (r *rig) redeliver(t *testing.T, record kafka.Message) {
	t.Helper()
	cluster, err := r.broker.ClusterID(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	r.mutex.Lock()
	lifetime := r.settled[place(record.Topic, record.Partition, record.Offset)]
	r.mutex.Unlock()
	decision, err := r.Decide(t.Context(), stream.Batch{
		Cluster: cluster, Topic: record.Topic, Partition: record.Partition, Lifetime: lifetime, Generation: 1 << 20, Committed: record.Offset, Records: []kafka.Message{record},
	})
	if err != nil {
		t.Fatal(err)
	}
	err = r.publisher.Publish(t.Context(), decision.Records, kafka.Delivery{Refused: func(kafka.Message, error) ([]kafka.Message, bool) { return nil, true }})
	if err != nil {
		t.Fatal(err)
	}
}

// resultsOf reads the results that have come, by request id.
func (r *rig) resultsOf(t *testing.T) map[string][]any {
	t.Helper()
	records, err := r.results.Next(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	results := map[string][]any{}
	for _, record := range records {
		result, err := decodeJSON(record.Value)
		if err != nil {
			t.Fatalf("result %s: %v", record.Value, err)
		}
		r.contracts.hold(t, r.contracts.resultOf(result), record.Value)
		id := headerOf(record, wire.HeaderRequestID)
		results[id] = append(results[id], result)
	}
	return results
}

func headerOf(record kafka.Message, name string) string {
	for _, header := range record.Headers {
		if header.Key == name {
			return string(header.Value)
		}
	}
	return ""
}
