package engine

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"time"

	"github.com/segmentio/kafka-go"
	"go.opentelemetry.io/otel/trace"

	"tollgate/internal/balance"
	"tollgate/internal/store"
	"tollgate/internal/stream"
	"tollgate/internal/wire"
)

// request is a record with what its headers say, and the rules that it is decided by.
type request struct {
	record     *kafka.Message
	headers    wire.Headers
	replyTopic string
	rules      *rules
	origin     store.Origin
	readAt     time.Time
	// stranger says that the customer does not exist, and that the store keeps in mind to have said so.
	stranger bool
}

// question is a request that the store decides: a check or a command.
type question interface {
	call() store.Call
	// answer makes the records that a reply leads to. It fails with *failure if the store could not decide.
	answer(reply store.Reply) ([]kafka.Message, error)
	// refuse makes the result of a request that is not decided by what the customer has.
	refuse(err *balance.Error, atMs int64) kafka.Message
}

// failure says that a request could not be decided, for a reason that lies in what Redis holds or in us.
type failure struct {
	atMs   int64 // when it was met first
	reason string
}

func (f *failure) Error() string { return f.reason }

// outcomeFailure is the failure that an outcome keeps, nil if it is another error or none.
func outcomeFailure(err *balance.Error, atMs int64) error {
	if err != nil && err.Code == balance.InternalError {
		return &failure{atMs, err.Message}
	}
	return nil
}

// read makes a question of a record, or the records that it leads to at once.
func (e *Engine) read(r *request) (question, []kafka.Message) {
	if r.record.Topic == e.options.Topics.Commands {
		return e.readCommand(r)
	}
	return e.readCheck(r)
}

// decided is what a batch led to.
type decided struct {
	records   []kafka.Message
	source    string
	strangers []stranger
}

// decide decides the records of a batch, in order.
func (e *Engine) decide(ctx context.Context, batch stream.Batch) (*decided, error) {
	e.observer.Batched(len(batch.Records))
	current, now := e.rules.Load(), e.options.Clock()
	source := store.Source(batch.Cluster, batch.Topic, batch.Partition, batch.Lifetime)
	requests := make([]request, len(batch.Records))
	questions, ready := make([]question, len(batch.Records)), make([][]kafka.Message, len(batch.Records))
	calls := make([]store.Call, 0, len(batch.Records))
	for i := range batch.Records {
		record := &batch.Records[i]
		requests[i] = request{record: record, rules: current, readAt: now, origin: store.Origin{
			Source: source, Offset: record.Offset, TimestampMs: wire.TimestampMs(record), Committed: batch.Committed,
		}}
		questions[i], ready[i] = e.read(&requests[i])
		if questions[i] != nil {
			calls = append(calls, questions[i].call())
		}
	}
	replies, err := e.run(ctx, calls)
	if err != nil {
		return nil, err
	}
	out := &decided{records: make([]kafka.Message, 0, 2*len(batch.Records)), source: source}
	for i := range batch.Records {
		if questions[i] == nil {
			out.records = append(out.records, ready[i]...)
			continue
		}
		records, err := e.settle(&batch.Records[i], questions[i], replies[0])
		if err != nil {
			return nil, err
		}
		if requests[i].stranger {
			out.strangers = append(out.strangers, stranger{calls[0].CustomerID(), batch.Records[i].Offset})
		}
		out.records, replies, calls = append(out.records, records...), replies[1:], calls[1:]
	}
	return out, nil
}

// settle turns a reply into records.
func (e *Engine) settle(record *kafka.Message, q question, reply store.Reply) ([]kafka.Message, error) {
	if reply.Stale {
		return nil, fmt.Errorf("%w: %s/%d offset %d is committed", stream.ErrPartitionLost, record.Topic, record.Partition, record.Offset)
	}
	if reply.Replayed {
		e.observer.Replayed()
	}
	records, err := []kafka.Message(nil), reply.Err
	if err == nil {
		records, err = q.answer(reply)
	}
	if err == nil {
		return records, nil
	}
	// A defect of ours, or of what Redis holds. The record must not stop those behind it.
	failed := &failure{e.options.Clock().UnixMilli(), err.Error()}
	errors.As(err, &failed)
	e.logger.Error("a record could not be decided; it is in the dead-letter topic",
		"topic", record.Topic, "partition", record.Partition, "offset", record.Offset, "error", err)
	return []kafka.Message{
		q.refuse(balance.NewError(balance.InternalError), failed.atMs),
		e.deadLetter(record, deadInternal, "internal error: "+failed.reason),
	}, nil
}

const (
	firstPause = 20 * time.Millisecond
	longPause  = 2 * time.Second
)

// run sends the calls to Redis, again and again with growing pauses, until it answers or ctx ends. They
// are decided as of the time of each try. Nothing is decided without Redis. Of a Redis that is too slow
// for all of them ever fewer are asked at a time: asking for all again would only add to what it has to
// do.
func (e *Engine) run(ctx context.Context, calls []store.Call) ([]store.Reply, error) {
	ctx, span := tracer.Start(ctx, "redis", trace.WithSpanKind(trace.SpanKindClient))
	defer span.End()
	replies := make([]store.Reply, 0, len(calls))
	atOnce := len(calls)
	for try := 0; len(replies) < len(calls); {
		began := time.Now()
		some, err := e.store.Run(ctx, e.options.Clock(), calls[len(replies):min(len(calls), len(replies)+atOnce)])
		if err == nil {
			e.observer.Scripted(time.Since(began))
			replies, try = append(replies, some...), 0
			continue
		}
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		if errors.Is(err, os.ErrDeadlineExceeded) {
			atOnce = max(1, atOnce/2)
		}
		if err := e.pause(ctx, try, err); err != nil {
			return nil, err
		}
		try++
	}
	return replies, nil
}

// pause waits before another try, longer each time, where Redis failed with err. It fails if ctx ends.
func (e *Engine) pause(ctx context.Context, try int, err error) error {
	if try&(try-1) == 0 { // 0, 1, 2, 4, 8, …
		e.logger.Warn("redis does not answer as it should, trying again", "error", err, "try", try+1)
	}
	e.observer.RedisRetried()
	wait := min(firstPause<<min(try, 10), longPause)
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-time.After(wait/2 + rand.N(wait/2+1)):
		return nil
	}
}
