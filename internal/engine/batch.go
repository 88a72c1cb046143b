package engine

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/segmentio/kafka-go"
	"go.opentelemetry.io/otel/trace"

	"tollgate/internal/balance"
	"tollgate/internal/retry"
	"tollgate/internal/store"
	"tollgate/internal/stream"
	"tollgate/internal/wire"
)

// request is a record with what its headers say, and the rules that it is decided by.
type request struct {
	record     *kafka.Message
	headers    wire.Headers
	replyTopic string
	customerID string // "" if the record cannot be read
	rules      *rules
	origin     store.Origin
	readAt     time.Time
	// lock is one that the index is to be told of, nil for none; madeLock the id of one that it has as it is.
	lock     *balance.Lock
	madeLock string
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

// asked are records that were read, and what the store says to them.
type asked struct {
	requests  []request
	questions []question        // nil for a record that is answered at once
	ready     [][]kafka.Message // its answer then
	calls     []store.Call      // of the questions, in order
	replies   []store.Reply     // to the calls
	waits     bool              // some calls wait for their Redis shard
}

// ask reads records of a source, in order, but those that skip (nil: none) takes.
func (e *Engine) ask(records []kafka.Message, source string, committed int64, skip func(*request) bool) *asked {
	current, now := e.rules.Load(), e.options.Clock()
	a := &asked{
		requests: make([]request, len(records)), questions: make([]question, len(records)), ready: make([][]kafka.Message, len(records)),
		calls: make([]store.Call, 0, len(records)),
	}
	n := 0
	for i := range records {
		record := &records[i]
		a.requests[n] = request{record: record, rules: current, readAt: now, origin: store.Origin{
			Source: source, Offset: record.Offset, TimestampMs: wire.TimestampMs(record), Committed: committed,
		}}
		a.questions[n], a.ready[n] = e.read(&a.requests[n])
		if skip != nil && skip(&a.requests[n]) {
			continue
		}
		if a.questions[n] != nil {
			a.calls = append(a.calls, a.questions[n].call())
		}
		n++
	}
	a.requests, a.questions, a.ready = a.requests[:n], a.questions[:n], a.ready[:n]
	return a
}

// conclude turns what the store says into records, in order. hold is given the place of each request that waits for its
// Redis shard, or is behind one of its customer that does.
func (e *Engine) conclude(a *asked, hold func(n int, reason error), answered func(*request)) ([]kafka.Message, error) {
	out := make([]kafka.Message, 0, 2*len(a.requests))
	replies := a.replies
	var waiting map[string]error // by customer
	if a.waits {
		waiting = map[string]error{}
	}
	for i := range a.requests {
		r, q := &a.requests[i], a.questions[i]
		var reply store.Reply
		if q != nil {
			reply, replies = replies[0], replies[1:]
		}
		if a.waits {
			if reply.Waits != nil {
				waiting[r.customerID] = reply.Waits
			}
			if reason := waiting[r.customerID]; reason != nil {
				hold(i, reason)
				continue
			}
		}
		if q == nil {
			out = append(out, a.ready[i]...)
		} else {
			records, err := e.settle(r.record, q, reply)
			if err != nil {
				return nil, err
			}
			out = append(out, records...)
		}
		answered(r)
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

// patience is how often Redis is asked again.
var patience = retry.Policy{First: 20 * time.Millisecond, Longest: 2 * time.Second}

// run sends the calls to Redis, again and again with growing pauses, until it answers or ctx ends. They
// are decided as of the time of each try. Nothing is decided without Redis. Of a Redis that is too slow
// for all of them ever fewer are asked at a time: asking for all again would only add to what it has to
// do. failed (nil: none) is told what went wrong. Unless it is to answer the whole it returns, too, if the calls that are left wait for their shard of a Cluster.
func (e *Engine) run(ctx context.Context, calls []store.Call, whole bool, failed func(error)) (replies []store.Reply, waits bool, err error) {
	ctx, span := tracer.Start(ctx, "redis", trace.WithSpanKind(trace.SpanKindClient))
	defer span.End()
	replies = make([]store.Reply, 0, len(calls))
	atOnce := len(calls)
	for try := 0; len(replies) < len(calls); {
		began := time.Now()
		some, err := e.store.Run(ctx, e.options.Clock(), calls[len(replies):min(len(calls), len(replies)+atOnce)])
		if !whole && errors.Is(err, store.ErrPartly) {
			return some, true, nil // of all calls: fewer are asked at a time only where Run fails as a whole
		}
		if err == nil {
			e.observer.Scripted(time.Since(began))
			replies, try = append(replies, some...), 0
			continue
		}
		if ctx.Err() != nil {
			return nil, false, context.Cause(ctx)
		}
		if isTimeout(err) {
			atOnce = max(1, atOnce/2)
		}
		if failed != nil {
			failed(err)
		}
		if err := e.pause(ctx, try, err); err != nil {
			return nil, false, err
		}
		try++
	}
	return replies, false, nil
}

func isTimeout(err error) bool {
	return errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, context.DeadlineExceeded)
}

// pause waits before another try, longer each time, where Redis failed with err. It fails if ctx ends.
func (e *Engine) pause(ctx context.Context, try int, err error) error {
	retry.Log(e.logger, "redis does not answer as it should, trying again", err, try)
	e.observer.RedisRetried()
	retry.Pause(ctx, patience, try)
	return context.Cause(ctx)
}
