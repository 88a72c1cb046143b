package stream

import (
	"context"
	"errors"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/segmentio/kafka-go"
	"go.opentelemetry.io/otel/trace"
	"golang.org/x/sync/errgroup"
)

// flow is one assigned partition during one generation: fetching, deciding and
// publishing, each a step ahead of the next by one batch, so that what is in
// flight is bounded and order is kept.
type flow struct {
	consumer   *Consumer
	topic      string
	partition  int
	generation int
	fetchBytes int // at a time
	batchMax   int // records
	committed  atomic.Int64
	fresh      string // id of the lifetime, where one begins
	mark       mark   // of the lifetime, once it has begun
	member     *membership
	siblings   int    // partitions of the worker in this generation
	leave      func() // the group
	delivery   delivery
	decider    PartitionDecider
	logger     *slog.Logger
}

// decided is a batch with what was decided by then.
type decided struct {
	batch Batch
	out   []kafka.Message
	next  int64      // what may be committed
	span  trace.Span // of the batch
}

// run works until the generation ends, and then finishes what is in hand within
// the consumer's shutdown timeout.
func (f *flow) run(generation context.Context) {
	err := f.work(generation)
	f.consumer.observer.Dropped(f.topic, f.partition)
	if err != nil && generation.Err() == nil {
		f.logger.Warn("giving the partition up", "error", err)
	}
}

func (f *flow) work(generation context.Context) error {
	start, err := f.begin(generation)
	if err != nil {
		return err
	}
	finish, cancel := lingering(generation, f.consumer.options.ShutdownTimeout)
	defer cancel()
	group, working := errgroup.WithContext(finish)
	batches, outs := make(chan Batch, 1), make(chan decided, 1)
	group.Go(func() error {
		defer close(batches)
		return f.fetch(generation, working, start, batches)
	})
	group.Go(func() error {
		defer close(outs)
		return f.decide(generation, working, batches, outs)
	})
	group.Go(func() error { return f.publish(working, outs) })
	return group.Wait()
}

// lingering is a context that ends some time after its parent has.
func lingering(parent context.Context, linger time.Duration) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(context.WithoutCancel(parent))
	stop := context.AfterFunc(parent, func() {
		timer := time.AfterFunc(linger, cancel)
		context.AfterFunc(ctx, func() { timer.Stop() })
	})
	return ctx, func() { stop(); cancel() }
}

// fetch reads from an offset on until the generation ends.
func (f *flow) fetch(generation, working context.Context, offset int64, batches chan<- Batch) error {
	fetching, cancel := context.WithCancel(generation)
	defer cancel()
	defer context.AfterFunc(working, cancel)()
	try := 0
	for fetching.Err() == nil {
		got, err := f.fetchOnce(fetching, offset)
		if err != nil {
			if fetching.Err() != nil {
				return nil
			}
			logRetry(f.logger, try, "cannot fetch, trying again", err)
			f.consumer.observer.Retried()
			pause(fetching, try)
			try++
			continue
		}
		try, offset = 0, got.Next
		f.consumer.observer.Fetched(f.topic, f.partition, got.End-got.Next)
		for _, records := range split(got.Records, f.batchMax) {
			batch := Batch{
				Cluster: f.consumer.cluster, Topic: f.topic, Partition: f.partition,
				Lifetime: f.mark.id, Generation: f.generation, Records: records,
			}
			select {
			case batches <- batch:
			case <-fetching.Done():
				return nil
			}
		}
	}
	return nil
}

func (f *flow) fetchOnce(ctx context.Context, offset int64) (Fetched, error) {
	got, err := Fetch(ctx, f.consumer.broker.Client, f.topic, f.partition, offset, f.fetchBytes)
	if errors.Is(err, kafka.OffsetOutOfRange) {
		first, err := FirstOffset(ctx, f.consumer.broker.Client, f.topic, f.partition)
		if err != nil {
			return Fetched{}, err
		}
		f.logger.Error("records are gone that were never read: the topic's retention was shorter than the lag",
			"wanted_offset", offset, "first_offset", first)
		return Fetched{Next: first, End: first}, nil
	}
	return got, err
}

func split(records []kafka.Message, most int) [][]kafka.Message {
	var parts [][]kafka.Message
	for len(records) > most {
		parts = append(parts, records[:most:most])
		records = records[most:]
	}
	if len(records) > 0 {
		parts = append(parts, records)
	}
	return parts
}

// decide hands batches to the decider until the generation ends; what is waiting
// then is left to the next owner.
func (f *flow) decide(generation, working context.Context, batches <-chan Batch, outs chan<- decided) error {
	restless, heldBack, tries := false, false, 0
	_, whole := f.delivery.(*exactlyOnce)
	var end int64
	for {
		var batch Batch
		open := true
		if heldBack {
			batch, open = f.awaitHeldBack(batches, tries)
			tries++
		} else {
			batch, open = f.await(working, batches, &restless)
		}
		if !open {
			return nil
		}
		if generation.Err() != nil {
			continue
		}
		if len(batch.Records) > 0 {
			batch = f.fill(generation, batch, batches)
			end = batch.next()
		}
		batch.Committed, batch.Whole = f.committed.Load(), whole
		ctx, span := startBatch(working, f.consumer.options.Group, batch)
		decision, err := f.decider.Decide(ctx, batch)
		if err != nil {
			endSpan(span, err)
			return err
		}
		if heldBack = decision.Next < end; !heldBack || len(decision.Records) > 0 {
			tries = 0
		}
		select {
		case outs <- decided{batch, decision.Records, decision.Next, span}:
		case <-working.Done():
			endSpan(span, context.Cause(working))
			return context.Cause(working)
		}
		restless = true
	}
}

// awaitHeldBack returns the next batch, or after a pause one without records.
func (f *flow) awaitHeldBack(batches <-chan Batch, tries int) (batch Batch, open bool) {
	timer := time.NewTimer(min(firstPause<<min(tries, 10), longHeldBackPause))
	defer timer.Stop()
	select {
	case batch, open = <-batches:
		return batch, open
	case <-timer.C:
		return Batch{Cluster: f.consumer.cluster, Topic: f.topic, Partition: f.partition, Lifetime: f.mark.id, Generation: f.generation}, true
	}
}

const longHeldBackPause = 500 * time.Millisecond

// restAfter is how long nothing must have come for a partition to be at rest.
const restAfter = 10 * time.Millisecond

// await returns the next batch. While none comes the decider may use the time.
func (f *flow) await(working context.Context, batches <-chan Batch, restless *bool) (batch Batch, open bool) {
	for *restless {
		select {
		case batch, open = <-batches:
			return batch, open
		case <-time.After(restAfter):
			*restless = f.decider.Rest(working, f.committed.Load())
		}
	}
	batch, open = <-batches
	return batch, open
}

// fill waits up to BatchLinger for more records where the batch is not full.
func (f *flow) fill(generation context.Context, batch Batch, batches <-chan Batch) Batch {
	linger := f.consumer.options.BatchLinger
	if linger <= 0 || len(batch.Records) >= f.batchMax {
		return batch
	}
	timer := time.NewTimer(linger)
	defer timer.Stop()
	for len(batch.Records) < f.batchMax {
		select {
		case more, open := <-batches:
			if !open {
				return batch
			}
			batch.Records = append(batch.Records, more.Records...)
		case <-timer.C:
			return batch
		case <-generation.Done():
			return batch
		}
	}
	return batch
}

// publish delivers what was decided.
func (f *flow) publish(working context.Context, outs <-chan decided) error {
	for d := range outs {
		ctx, span := tracer.Start(trace.ContextWithSpan(working, d.span), "publish", trace.WithSpanKind(trace.SpanKindProducer))
		err := f.delivery.deliver(ctx, d)
		endSpan(span, err)
		endSpan(d.span, err)
		if err != nil {
			return err
		}
		f.consumer.observer.Settled(d.batch)
	}
	return nil
}
