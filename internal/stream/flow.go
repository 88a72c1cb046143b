package stream

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	kafkago "github.com/segmentio/kafka-go"
	"go.opentelemetry.io/otel/trace"
	"golang.org/x/sync/errgroup"

	"tollgate/internal/kafka"
	"tollgate/internal/kafka/recordbatch"
	"tollgate/internal/retry"
)

// flow is the work on one assignment: fetching, deciding and publishing, each a step ahead of the next by one
// batch, so that what is in flight is bounded and order is kept.
type flow struct {
	assignment *assignment
	consumer   *Consumer
	batchMax   int // records
	batchBytes int
	decider    PartitionDecider // of what was begun last
	delivery   delivery
	insist     insistence
	logger     *slog.Logger
	truncated  *kafka.Truncated // what was found out about the log
	settled    int64            // offset below which everything is published
}

// errBeginAgain ends the work on a partition whose log is not the one that was read: where to go on is found out
// as at the beginning.
var errBeginAgain = errors.New("the partition begins again")

// run works until the generation is over, and then finishes what is in hand within the shutdown timeout. It fails
// if the generation has to end.
func (f *flow) run(over context.Context) error {
	for over.Err() == nil {
		err := f.work(over)
		if err != nil && !errors.Is(err, errBeginAgain) {
			return err
		}
	}
	return nil
}

func (f *flow) work(over context.Context) error {
	start, err := f.begin(over)
	if err != nil {
		if over.Err() != nil {
			return nil
		}
		return err
	}
	// What it holds back is of the log that was read before.
	f.decider = f.consumer.decider.Partition(f.assignment.Topic, f.assignment.Partition)
	finish, cancel := lingering(over, f.assignment.generation.Lost(), f.consumer.options.ShutdownTimeout)
	defer cancel()
	group, working := errgroup.WithContext(finish)
	batches, outs := make(chan Batch, 1), make(chan *decided, 1)
	var again error
	group.Go(func() error {
		defer close(batches)
		err := f.fetch(over, working, start, batches)
		if errors.Is(err, errBeginAgain) {
			again = err // once the others are done with what they have
			return nil
		}
		return err
	})
	group.Go(func() error {
		defer close(outs)
		return f.decide(over, working, batches, outs)
	})
	group.Go(func() error { return f.publish(working, outs) })
	err = group.Wait()
	for d := range outs {
		f.abandon(d, err)
	}
	if err != nil {
		if over.Err() != nil {
			f.logger.Info("records are left to the next owner", "error", err)
			return nil
		}
		return err
	}
	if again != nil { // where it begins depends on what is committed
		for settled := f.settled; f.assignment.progress.committed.Load() < settled && over.Err() == nil; {
			wait(over, commitEvery)
		}
	}
	return again
}

// lingering is a context that ends some time after over has, or at once if the partition is lost.
func lingering(over, lost context.Context, linger time.Duration) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancelCause(context.WithoutCancel(over))
	stopLinger := context.AfterFunc(over, func() {
		timer := time.AfterFunc(linger, func() { cancel(errTooLate) })
		context.AfterFunc(ctx, func() { timer.Stop() })
	})
	stopLost := context.AfterFunc(lost, func() { cancel(context.Cause(lost)) })
	return ctx, func() { stopLinger(); stopLost(); cancel(context.Canceled) }
}

var errTooLate = errors.New("it was not finished within the shutdown timeout")

// fetch reads from a place on until the generation is over. It fails with errBeginAgain if the log is another one.
func (f *flow) fetch(over, working context.Context, from start, batches chan<- Batch) error {
	fetching, cancel := context.WithCancel(over)
	defer cancel()
	defer context.AfterFunc(working, cancel)()
	a := f.assignment
	cursor := f.open(from)
	defer func() { cursor.Close() }()
	for failures := 0; fetching.Err() == nil; {
		got, err := cursor.Next(fetching)
		if err == nil {
			from.offset, err = f.handOut(fetching, &got, batches)
			cursor.Done(&got)
		}
		switch {
		case err == nil:
			failures = 0
			continue
		case fetching.Err() != nil:
			return nil
		case errors.Is(err, kafkago.OffsetOutOfRange), isTruncation(err):
			next, err := f.outOfRange(fetching, from.offset, err)
			if errors.Is(err, errBeginAgain) {
				return err
			}
			if err == nil && next != from.offset {
				from.offset = next
				cursor.Close()
				cursor = f.open(start{next, -1})
				continue
			}
		case isUnreadable(err):
			f.stop(fetching, f.consumer.refuseUnreadable(a.Target, from.offset, err))
			return nil
		}
		retry.Log(f.logger, "cannot fetch, trying again", err, failures)
		f.consumer.observer.Retried()
		a.progress.fail(err)
		retry.Pause(fetching, patience, failures)
		failures++
	}
	return nil
}

// open begins to fetch from a place on.
func (f *flow) open(from start) *kafka.Cursor {
	id := f.assignment.topicID
	if !f.consumer.byID {
		id = kafka.TopicID{}
	}
	return f.consumer.fetcher.Open(f.assignment.Target, id, from.offset, from.epoch)
}

// handOut takes an answer apart, and hands out batches of bounded size. It returns the offset behind them.
func (f *flow) handOut(ctx context.Context, got *kafka.Fetched, batches chan<- Batch) (int64, error) {
	reader := got.Reader(f.consumer.options.MaxValueBytes)
	defer reader.Close()
	a := f.assignment
	for done := false; !done; {
		records, last, err := reader.Next(ctx, f.batchMax, f.batchBytes)
		if err != nil {
			return reader.Position(), fmt.Errorf("read records of %s: %w", a.Target, err)
		}
		done = last
		batch := Batch{
			Cluster: f.consumer.cluster, Topic: a.Topic, Partition: a.Partition, Lifetime: a.mark.id, Generation: a.generation.ID,
			Records: a.Messages(records), Next: reader.Position(), epoch: reader.Epoch(),
			Whole: f.consumer.options.ExactlyOnce,
		}
		if len(records) == 0 && !done {
			continue
		}
		select {
		case batches <- batch:
		case <-ctx.Done():
			return batch.Next, context.Cause(ctx)
		}
	}
	return reader.Position(), nil
}

// stop keeps the partition from going on until the generation is over.
func (f *flow) stop(fetching context.Context, reason *refusal) {
	f.logger.Error("the partition stops", "error", reason)
	f.assignment.progress.fail(reason)
	f.consumer.block(f.assignment, reason)
	<-fetching.Done()
}

func isTruncation(err error) bool {
	var truncated *kafka.Truncated
	return errors.As(err, &truncated)
}

// isUnreadable says that a batch will read the same when it is fetched again.
func isUnreadable(err error) bool {
	var batch *recordbatch.BatchError
	return errors.As(err, &batch) && !errors.Is(err, recordbatch.ErrIncomplete)
}

// outOfRange finds out what to do about an offset that a partition does not have. It returns where to go on, or
// errBeginAgain if the log is another one.
func (f *flow) outOfRange(ctx context.Context, offset int64, err error) (int64, error) {
	if errors.As(err, &f.truncated) {
		return 0, errBeginAgain
	}
	a := f.assignment
	first, err := f.consumer.broker.FirstOffset(ctx, a.Topic, a.Partition)
	if err != nil {
		return 0, err
	}
	if offset < first {
		f.logger.Error("records are gone that were never read: the topic's retention is shorter than the lag",
			"wanted_offset", offset, "first_offset", first, "records", first-offset)
		f.consumer.observer.Skipped(a.Topic, a.Partition, first-offset)
		return first, nil
	}
	last, err := f.consumer.broker.LastOffset(ctx, a.Topic, a.Partition)
	if err != nil {
		return 0, err
	}
	if offset > last {
		f.truncated = &kafka.Truncated{Target: a.Target, Offset: offset, End: last}
		return 0, errBeginAgain
	}
	return offset, nil // it was a moment's: a leader that was behind
}

// decide hands batches to the decider until the generation is over; what is waiting then is left to the next
// owner.
func (f *flow) decide(over, working context.Context, batches <-chan Batch, outs chan<- *decided) error {
	w := waiting{flow: f, batches: batches}
	for {
		batch, open := w.next(working)
		if !open {
			return nil
		}
		if over.Err() != nil {
			continue
		}
		batch = f.fill(over, batch, batches)
		batch.Committed = f.assignment.progress.committed.Load()
		d := &decided{batch: batch, next: batch.Next, epoch: batch.epoch}
		if len(batch.Records) > 0 || w.heldBack {
			if err := f.decideBatch(working, d); err != nil {
				return err
			}
		}
		w.heldBack = d.next < batch.Next
		if w.heldBack {
			d.epoch = -1
		}
		w.end, w.restless = batch.Next, true
		select {
		case outs <- d:
		case <-working.Done():
			f.abandon(d, context.Cause(working))
			return context.Cause(working)
		}
	}
}

func (f *flow) decideBatch(ctx context.Context, d *decided) error {
	f.consumer.observer.InHand(len(d.batch.Records))
	d.batch.Failed = f.assignment.progress.fail
	ctx, d.span = startBatch(ctx, f.assignment.group, d.batch)
	decision, err := f.decider.Decide(ctx, d.batch)
	if err != nil {
		f.abandon(d, err)
		return err
	}
	d.records, d.next = decision.Records, decision.Next
	return nil
}

// abandon lets go of a batch that will not be published.
func (f *flow) abandon(d *decided, err error) {
	f.consumer.observer.InHand(-len(d.batch.Records))
	if d.span != nil {
		endSpan(d.span, err)
	}
}

// waiting is what the decider does between batches.
type waiting struct {
	flow     *flow
	batches  <-chan Batch
	end      int64 // of what was handed out
	heldBack bool  // records are held back
	restless bool  // the decider may use the time
	failures int   // to go on with what is held back
}

// restAfter is how long nothing must have come for a partition to be at rest.
const restAfter = 10 * time.Millisecond

// heldBackPause is how often records that are held back are tried again while no others come.
var heldBackPause = retry.Policy{First: 50 * time.Millisecond, Longest: time.Second}

// next returns the next batch, or one without records if some are held back and nothing comes. While none comes the
// decider may use the time.
func (w *waiting) next(ctx context.Context) (batch Batch, open bool) {
	for {
		var pause <-chan time.Time
		switch {
		case w.heldBack:
			pause = time.After(min(heldBackPause.First<<min(w.failures, 8), heldBackPause.Longest))
		case w.restless:
			pause = time.After(restAfter)
		}
		select {
		case batch, open = <-w.batches:
			w.failures = 0
			return batch, open
		case <-pause:
		}
		if w.heldBack {
			w.failures++
			return w.flow.emptyBatch(w.end), true
		}
		w.restless = w.flow.decider.Rest(ctx, w.flow.assignment.progress.committed.Load())
	}
}

// emptyBatch asks to go on with what is held back.
func (f *flow) emptyBatch(next int64) Batch {
	a := f.assignment
	return Batch{
		Cluster: f.consumer.cluster, Topic: a.Topic, Partition: a.Partition, Lifetime: a.mark.id, Generation: a.generation.ID,
		Next: next, epoch: -1,
	}
}

// fill waits up to BatchLinger for more records if the batch is not full.
func (f *flow) fill(over context.Context, batch Batch, batches <-chan Batch) Batch {
	linger := f.consumer.options.BatchLinger
	if linger <= 0 || len(batch.Records) == 0 || len(batch.Records) >= f.batchMax {
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
			batch.Records, batch.Next, batch.epoch = append(batch.Records, more.Records...), more.Next, more.epoch
		case <-timer.C:
			return batch
		case <-over.Done():
			return batch
		}
	}
	return batch
}

// publish delivers what was decided.
func (f *flow) publish(working context.Context, outs <-chan *decided) error {
	for d := range outs {
		ctx, span := startPublish(working, d)
		err := f.delivery.deliver(ctx, d)
		endSpan(span, err)
		if err != nil {
			f.abandon(d, err)
			return err
		}
		if d.span != nil {
			endSpan(d.span, nil)
		}
		f.settled = d.next
		f.consumer.observer.InHand(-len(d.batch.Records))
		f.consumer.observer.Settled(d.batch)
	}
	return nil
}

// startPublish begins the span of publishing a batch.
func startPublish(ctx context.Context, d *decided) (context.Context, trace.Span) {
	if d.span != nil {
		ctx = trace.ContextWithSpan(ctx, d.span)
	}
	return tracer.Start(ctx, "publish", trace.WithSpanKind(trace.SpanKindProducer))
}
