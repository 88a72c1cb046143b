//go:build bench

package bench

import (
	"context"
	"encoding/json"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	kafkago "github.com/segmentio/kafka-go"
	"golang.org/x/sync/errgroup"

	"tollgate/bench/report"
	"tollgate/internal/kafka"
	"tollgate/internal/proctest"
	"tollgate/internal/realtest"
	"tollgate/internal/servertest"
	"tollgate/internal/store"
	"tollgate/internal/stream"
	"tollgate/internal/wire"
)

// workload is a kind of check.
type workload struct {
	name string
	// provision prepares the customers; nil: those of the plan pro.
	provision func(b *bench, customers int)
	body      func(i, customer int) string
	// event says that an allowed check has a usage event.
	event bool
}

func plain(i, customer int) string {
	return fmt.Sprintf(`{"customer_id":"customer-%d","feature_id":"messages","required_balance":1}`, customer)
}

func event(i, customer int) string {
	return fmt.Sprintf(`{"customer_id":"customer-%d","feature_id":"messages","required_balance":1,"send_event":true,"properties":{"model":"small"}}`, customer)
}

func credits(i, customer int) string {
	return fmt.Sprintf(`{"customer_id":"customer-%d","feature_id":"gpt_tokens","required_balance":37,"send_event":true}`, customer)
}

func perEntity(i, customer int) string {
	return fmt.Sprintf(`{"customer_id":"customer-%d","feature_id":"messages","entity_id":"seat-%d","required_balance":1,"send_event":true}`, customer, i%entitiesEach)
}

func denied(i, customer int) string {
	amount := "9000000000"
	if i%10 == 0 {
		amount = "1"
	}
	return fmt.Sprintf(`{"customer_id":"customer-%d","feature_id":"messages","required_balance":%s,"send_event":true,"with_preview":true}`, customer, amount)
}

const entitiesEach = 5

// withEntities gives each customer seats with balances of their own.
func withEntities(b *bench, customers int) {
	b.provision(customers)
	b.addEntities(customers, entitiesEach)
}

func (b *bench) addEntities(customers, each int) {
	b.Helper()
	for customer := range customers {
		calls := []store.Call{b.store.PlanAttach(b.step(customer), b.items, b.catalog.Plan("team"), nil, time.Time{}, 0)}
		for n := range each {
			step := b.step(customer)
			step.Entity = fmt.Sprintf("seat-%d", n)
			calls = append(calls, b.store.EntityCreate(step, b.items, "seats", "", []store.Need{{FeatureID: "seats", Units: 1}}))
		}
		b.run(calls)
		b.forget()
	}
}

var (
	sendEvent = workload{name: "send_event", body: event, event: true}
	workloads = []workload{
		{name: "plain", body: plain},
		sendEvent,
		{name: "credit system", body: credits, event: true},
		{name: "per entity", provision: withEntities, body: perEntity, event: true},
		{name: "90 % denied, with preview", body: denied},
		{name: "mix", provision: withEntities, body: func(i, customer int) string {
			return []func(int, int) string{plain, event, credits, perEntity, denied}[i%5](i, customer)
		}},
	}
)

// shape is how large a deployment is.
type shape struct{ customers, partitions, workers int }

var usual = shape{customers, partitions, 1}

// worker measures workers that work a backlog off.
func (r *rig) worker(w workload, flags ...string) report.Run {
	r.Helper()
	return r.workerIn(w, usual, *checks, flags...)
}

func (r *rig) workerIn(w workload, in shape, checks int, flags ...string) report.Run {
	r.Helper()
	b, end := r.newBench(in.partitions)
	defer end()
	if w.provision == nil {
		b.provision(in.customers)
	} else {
		w.provision(b, in.customers)
	}
	b.send(checks, func(i int) (int, string) {
		customer := i * 7919 % in.customers
		return customer, w.body(i, customer)
	})
	type measured struct {
		at                  time.Time
		done                int64
		worker, redis, kafk time.Duration
		in, out             float64
		allocs, bytes       float64
	}
	var processes []*proctest.Process
	var addrs []string
	for range in.workers {
		process, addr := b.startWorker(flags...)
		processes, addrs = append(processes, process), append(addrs, addr)
	}
	measure := func() measured {
		m := measured{done: b.written(b.topics.CheckResults, in.partitions), at: time.Now(), redis: r.cpu(r.redisPID), kafk: r.cpu(r.brokerPID)}
		for i, process := range processes {
			m.worker += r.cpu(process.PID())
			m.allocs += proctest.Metric(r, addrs[i], "go_memstats_mallocs_total")
			m.bytes += proctest.Metric(r, addrs[i], "go_memstats_alloc_bytes_total")
		}
		m.in, m.out = r.redisBytes()
		return m
	}
	// Starting and ending are left out: from a tenth to nine tenths of the backlog.
	realtest.UntilWithin(r, time.Minute, "a tenth", func() bool { return b.written(b.topics.CheckResults, in.partitions) > int64(checks/10) })
	first := measure()
	realtest.UntilWithin(r, 5*time.Minute, "nine tenths", func() bool { return b.written(b.topics.CheckResults, in.partitions) > int64(checks*9/10) })
	last := measure()
	n := float64(last.done - first.done)
	out := report.Run{
		PerSecond:    n / last.at.Sub(first.at).Seconds(),
		WorkerMicros: micros(last.worker-first.worker) / n, RedisMicros: micros(last.redis-first.redis) / n, BrokerMicros: micros(last.kafk-first.kafk) / n,
		Allocations: (last.allocs - first.allocs) / n, AllocatedBytes: (last.bytes - first.bytes) / n,
		ToRedisBytes: (last.in - first.in) / n, FromRedisBytes: (last.out - first.out) / n,
		ResultBytes: b.meanBytes(b.topics.CheckResults),
	}
	for _, process := range processes {
		out.ResidentMiB += float64(process.ResidentBytes(r)) / (1 << 20)
	}
	if w.event {
		out.EventBytes = b.meanBytes(b.topics.UsageEvents)
	}
	realtest.UntilWithin(r, time.Minute, "the rest", func() bool { return b.written(b.topics.CheckResults, in.partitions) >= int64(checks) })
	for _, process := range processes {
		if code := process.Stop(r); code != 0 {
			r.Fatalf("exit code %d\n%s", code, process.Output())
		}
	}
	return out
}

func micros(d time.Duration) float64 { return float64(d) / float64(time.Microsecond) }

// meanBytes is the mean size of the first records of a topic, which must be decisions.
func (b *bench) meanBytes(topic string) float64 {
	b.Helper()
	partition := 0
	for end := int64(0); end == 0; { // the one that has some
		var err error
		if end, err = b.broker.LastOffset(b.Context(), topic, partition); err != nil {
			b.Fatal(err)
		}
		if end == 0 {
			partition++
		}
	}
	fetched, err := b.broker.FetchRecords(b.Context(), topic, partition, 0, kafka.FetchMaxBytes)
	if err != nil {
		b.Fatal(err)
	}
	sum := 0
	for _, record := range fetched.Messages {
		var result wire.ResultRecord
		if err := json.Unmarshal(record.Value, &result); err != nil || result.Error != nil {
			b.Fatalf("not a decision: %s", record.Value)
		}
		sum += len(record.Value)
	}
	return float64(sum) / float64(len(fetched.Messages))
}

// calls are those that the checks of a workload become.
func (b *bench) calls(n, customer int) []store.Call {
	b.committed = b.offset - customers
	calls := make([]store.Call, n)
	for i := range calls {
		c := (customer + i*partitions) % customers
		calls[i] = b.store.Check(&store.Check{
			Step: b.step(c), FeatureID: "messages", Deduct: true, Needs: []store.Need{{FeatureID: "messages", Units: 1}},
		}, b.items)
	}
	return calls
}

// bare measures the worker's own script with real arguments through nothing but a
// go-redis pipeline: ready commands, replies unread.
func (r *rig) bare() float64 {
	r.Helper()
	b, end := r.newBench(partitions)
	defer end()
	b.provision(customers)
	pipelines := make([][][][]any, partitions)
	for partition := range pipelines {
		for range *checks / partitions / pipeline {
			pipelines[partition] = append(pipelines[partition], b.store.Evalshas(b.now, b.calls(pipeline, partition)))
		}
	}
	b.loadScript()
	began := time.Now()
	var group errgroup.Group
	for _, mine := range pipelines {
		group.Go(func() error {
			for _, commands := range mine {
				pipe := r.redis.Client.Pipeline()
				for _, command := range commands {
					pipe.Do(context.Background(), command...)
				}
				if _, err := pipe.Exec(context.Background()); err != nil {
					return err
				}
			}
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		r.Fatal(err)
	}
	return float64(partitions*len(pipelines[0])*pipeline) / time.Since(began).Seconds()
}

// loadScript gives Redis the script of checks.
func (b *bench) loadScript() {
	b.Helper()
	if err := b.calls(1, 0)[0].Load(b.Context(), b.redis.Client); err != nil {
		b.Fatal(err)
	}
}

// copier makes two records of one, as large as a result and an event, without deciding
// anything.
type copier struct {
	topics        [2]string
	result, event []byte
	settled       atomic.Int64
}

func (c *copier) Partition(string, int) stream.PartitionDecider { return c }
func (c *copier) Rest(context.Context, int64) bool              { return false }
func (c *copier) Decide(_ context.Context, batch stream.Batch) (stream.Decision, error) {
	out := make([]kafka.Message, 0, 2*len(batch.Records))
	for i := range batch.Records {
		out = append(out, kafka.Message{Topic: c.topics[0], Partition: -1, Key: batch.Records[i].Key, Value: c.result},
			kafka.Message{Topic: c.topics[1], Partition: -1, Key: batch.Records[i].Key, Value: c.event})
	}
	return stream.Decision{Records: out, Next: batch.Next}, nil
}
func (c *copier) Assigned(int)                              {}
func (c *copier) Lagging(string, int, int64, time.Duration) {}
func (c *copier) Dropped(string, int)                       {}
func (c *copier) Skipped(string, int, int64)                {}
func (c *copier) InHand(int)                                {}
func (c *copier) Retried()                                  {}
func (c *copier) Settled(batch stream.Batch)                { c.settled.Add(int64(len(batch.Records))) }

// copyRecords measures the worker's consuming and publishing without deciding.
func (r *rig) copyRecords(result, eventBytes int) float64 {
	r.Helper()
	b, end := r.newBench(partitions)
	defer end()
	b.send(*checks, func(i int) (int, string) { return i * 7919 % customers, event(i, i*7919%customers) })
	c := &copier{topics: [2]string{b.topics.CheckResults, b.topics.UsageEvents}, result: make([]byte, result), event: make([]byte, eventBytes)}
	logger := servertest.Silent()
	consumer := stream.NewConsumer(r.broker, stream.Options{
		Group: b.name, Topics: []string{b.topics.Checks}, SessionTimeout: 10 * time.Second, BatchMax: pipeline, ShutdownTimeout: time.Second,
		Refused: func(kafka.Message, error) ([]kafka.Message, bool) { return nil, true },
	}, c, kafka.NewPublisher(r.broker, kafka.PublisherOptions{}, logger), logger, c)
	ctx, cancel := context.WithCancel(r.Context())
	var running sync.WaitGroup
	running.Go(func() { _ = consumer.Run(ctx) })
	wait := func(n int) time.Time {
		realtest.UntilWithin(r, time.Minute, "copying", func() bool { return c.settled.Load() >= int64(n) })
		return time.Now()
	}
	began := wait(*checks / 10)
	from := c.settled.Load()
	took := wait(*checks * 9 / 10).Sub(began)
	perSecond := float64(c.settled.Load()-from) / took.Seconds()
	cancel()
	running.Wait()
	return perSecond
}

// naive measures what one would write first: fetch one, ask Redis, write, commit.
func (r *rig) naive() float64 {
	r.Helper()
	const checks = 1000
	b, end := r.newBench(partitions)
	defer end()
	b.provision(customers)
	b.send(checks, func(i int) (int, string) { return i * 7919 % customers, event(i, i*7919%customers) })
	calls := b.calls(checks, 0)
	b.loadScript()
	reader := kafkago.NewReader(kafkago.ReaderConfig{Brokers: []string{r.kafkaAddr}, GroupID: b.name, Topic: b.topics.Checks})
	defer reader.Close()
	writer := &kafkago.Writer{Addr: kafkago.TCP(r.kafkaAddr), RequiredAcks: kafkago.RequireAll, BatchSize: 1, Balancer: kafkago.Murmur2Balancer{}, Transport: r.broker.Client.Transport}
	defer writer.Close()
	var began time.Time
	for i := range calls {
		record, err := reader.FetchMessage(b.Context())
		if err != nil {
			r.Fatal(err)
		}
		if i == 0 {
			began = time.Now()
		}
		replies, err := r.redis.Client.Do(b.Context(), b.store.Evalshas(b.now, calls[i:i+1])[0]...).StringSlice()
		if err != nil {
			r.Fatal(err)
		}
		reply := replies[0]
		err = writer.WriteMessages(b.Context(), kafka.Message{Topic: b.topics.CheckResults, Key: record.Key, Value: []byte(reply)},
			kafka.Message{Topic: b.topics.UsageEvents, Key: record.Key, Value: []byte(reply)})
		if err == nil {
			err = reader.CommitMessages(b.Context(), record)
		}
		if err != nil {
			r.Fatal(err)
		}
	}
	return float64(checks-1) / time.Since(began).Seconds()
}
