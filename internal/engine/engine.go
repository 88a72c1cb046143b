// Package engine is the flow from a record to a decision to records: it decodes
// requests, has the store decide them, and encodes results and usage events. It
// is the only place that knows both store and stream.
package engine

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"os"
	"sync/atomic"
	"time"

	"github.com/segmentio/kafka-go"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/trace"

	"tollgate/internal/balance"
	"tollgate/internal/store"
	"tollgate/internal/stream"
	"tollgate/internal/wire"
)

// tracer does nothing unless the program sets a provider up.
var tracer = otel.Tracer("tollgate/internal/engine")

// Topics are the names of the topics.
type Topics struct {
	Checks         string
	CheckResults   string
	UsageEvents    string
	Commands       string
	CommandResults string
	DeadLetters    string
}

// All lists the names.
func (t Topics) All() []string {
	return []string{t.Checks, t.CheckResults, t.UsageEvents, t.Commands, t.CommandResults, t.DeadLetters}
}

// Observer is told what happens, for metrics.
type Observer interface {
	// Checked reports the result of a check. It must not be kept.
	Checked(result *wire.Result)
	Commanded(kind string, ok bool)
	UsageEvent()
	Replayed()
	DeadLettered(reason string)
	// Batched reports the records of a batch, before it is decided.
	Batched(records int)
	// Scripted reports how long Redis took for a batch.
	Scripted(took time.Duration)
	RedisRetried()
}

// Options are how an engine works.
type Options struct {
	Topics            Topics
	ReplyTopics       []string // where a request may have its result sent
	IdempotencyWindow time.Duration
	// Clock tells the time that decisions are made at.
	Clock func() time.Time
}

// Engine decides check requests and commands. It is a stream.Decider.
type Engine struct {
	store    *store.Store
	options  Options
	replyOK  map[string]bool
	logger   *slog.Logger
	observer Observer
	rules    atomic.Pointer[rules]
}

// rules is a catalogue, as the engine and as the scripts need it.
type rules struct {
	catalog *balance.Catalog
	items   *store.Items
}

// New makes an engine.
func New(st *store.Store, catalog *balance.Catalog, options Options, logger *slog.Logger, observer Observer) *Engine {
	e := &Engine{store: st, options: options, replyOK: map[string]bool{}, logger: logger, observer: observer}
	for _, topic := range options.ReplyTopics {
		e.replyOK[topic] = true
	}
	e.SetCatalog(catalog)
	return e
}

// SetCatalog makes a new catalogue count for every batch from now on.
func (e *Engine) SetCatalog(catalog *balance.Catalog) {
	e.rules.Store(&rules{catalog, store.NewItems(catalog)})
}

// Catalog is the catalogue in force.
func (e *Engine) Catalog() *balance.Catalog { return e.rules.Load().catalog }

// pending is a record on its way: either a call and what to do with its reply,
// or the records that it leads to at once.
type pending struct {
	call   store.Call
	finish func(store.Reply) ([]kafka.Message, error)
	refuse func(*balance.Error) kafka.Message
	ready  []kafka.Message
}

// request is a record with what its headers say, and the rules that it is
// decided by.
type request struct {
	record  *kafka.Message
	headers wire.Headers
	rules   *rules
	origin  store.Origin
	now     time.Time
}

// decide decides the records of a batch, in order, in one pipeline to Redis, and returns
// the calls, too.
func (e *Engine) decide(ctx context.Context, batch stream.Batch) ([]kafka.Message, []store.Call, error) {
	e.observer.Batched(len(batch.Records))
	work := make([]pending, len(batch.Records))
	var calls []store.Call
	current, now := e.rules.Load(), e.options.Clock()
	source := store.Source(batch.Cluster, batch.Topic, batch.Partition, batch.Lifetime)
	for i := range batch.Records {
		record := &batch.Records[i]
		r := &request{record: record, rules: current, now: now, origin: store.Origin{
			Source: source, Offset: record.Offset, TimestampMs: wire.TimestampMs(record),
			Generation: batch.Generation, Committed: batch.Committed,
		}}
		if batch.Topic == e.options.Topics.Commands {
			work[i] = e.prepareCommand(r)
		} else {
			work[i] = e.prepareCheck(r)
		}
		if work[i].finish != nil {
			calls = append(calls, work[i].call)
		}
	}
	replies, err := e.run(ctx, calls)
	if err != nil {
		return nil, nil, err
	}
	var out []kafka.Message
	for i := range work {
		if work[i].finish == nil {
			out = append(out, work[i].ready...)
			continue
		}
		records, err := e.settle(&batch.Records[i], &work[i], replies[0])
		if err != nil {
			return nil, nil, err
		}
		out, replies = append(out, records...), replies[1:]
	}
	return out, calls, nil
}

// settle turns a reply into records.
func (e *Engine) settle(record *kafka.Message, work *pending, reply store.Reply) ([]kafka.Message, error) {
	if reply.Stale {
		return nil, stream.ErrPartitionLost
	}
	if reply.Replayed {
		e.observer.Replayed()
	}
	records, err := []kafka.Message(nil), reply.Err
	if err == nil {
		records, err = work.finish(reply)
	}
	if err != nil {
		// A defect of ours, or of what Redis holds. The record must not stop those behind it.
		e.logger.Error("a record could not be decided; it is in the dead-letter topic",
			"topic", record.Topic, "partition", record.Partition, "offset", record.Offset, "error", err)
		return []kafka.Message{
			work.refuse(balance.NewError(balance.InternalError)),
			e.deadLetter(record, deadInternal, "internal error: "+err.Error()),
		}, nil
	}
	return records, nil
}

const (
	firstPause = 20 * time.Millisecond
	longPause  = 2 * time.Second
)

// run sends the calls to Redis, again and again with growing pauses, until it
// answers or ctx ends. Nothing is decided without Redis. Where a Redis is too slow for
// all of them it is asked for ever fewer at a time: asking for all again would only
// add to what it has to do.
func (e *Engine) run(ctx context.Context, calls []store.Call) ([]store.Reply, error) {
	ctx, span := tracer.Start(ctx, "redis", trace.WithSpanKind(trace.SpanKindClient))
	defer span.End()
	replies := make([]store.Reply, 0, len(calls))
	atOnce := len(calls)
	for try := 0; len(replies) < len(calls); {
		began := time.Now()
		some, err := e.store.Run(ctx, calls[len(replies):min(len(calls), len(replies)+atOnce)])
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
		if try&(try-1) == 0 { // 0, 1, 2, 4, 8, …
			e.logger.Warn("redis does not answer as it should, trying again", "error", err, "try", try+1)
		}
		e.observer.RedisRetried()
		wait := min(firstPause<<min(try, 10), longPause)
		select {
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case <-time.After(wait/2 + rand.N(wait/2+1)):
		}
		try++
	}
	return replies, nil
}

// Why a record became a dead letter, for metrics.
const (
	deadUnreadable = "unreadable"
	deadInternal   = string(balance.InternalError)
	deadRefused    = "refused_by_broker"
)

// DeadReasons are all that DeadLettered can report.
var DeadReasons = []string{deadUnreadable, deadInternal, deadRefused}

func (e *Engine) deadLetter(record *kafka.Message, reason, detail string) kafka.Message {
	e.observer.DeadLettered(reason)
	return wire.DeadLetter(e.options.Topics.DeadLetters, record, detail, e.options.Clock().UnixMilli())
}

// Refused is what to write in place of a record that the broker will never take:
// its dead letter, shortened until it fits, and an error for whoever waits for the
// result (stream.Refused).
func (e *Engine) Refused(record kafka.Message, err error) []kafka.Message {
	e.logger.Error("the broker refuses a record", "topic", record.Topic, "bytes", len(record.Value), "error", err)
	if record.Topic == e.options.Topics.DeadLetters {
		return nil
	}
	const mostKept = 64 << 10
	dead := record
	dead.Value = record.Value[:min(len(record.Value), mostKept)]
	out := []kafka.Message{e.deadLetter(&dead, deadRefused, "the broker refused it: "+err.Error())}
	if record.Topic != e.options.Topics.UsageEvents {
		out = append(out, wire.WithoutContent(&record, &balance.Error{
			Code: balance.InternalError, Message: "the result is larger than the broker takes; it was decided, and is in the dead-letter topic",
		}))
	}
	return out
}

// headers reads a request's headers and settles where its result goes. Where the
// reply topic is not allowed the result goes to the default one.
func (e *Engine) readHeaders(r *request, defaultTopic string) (topic string, err *balance.Error) {
	r.headers, err = wire.DecodeHeaders(r.record)
	switch {
	case r.headers.ReplyTopic == "" || r.headers.ReplyTopic == defaultTopic:
		return defaultTopic, err
	case e.replyOK[r.headers.ReplyTopic]:
		return r.headers.ReplyTopic, err
	}
	r.headers.ReplyPartition = wire.AnyPartition
	return defaultTopic, &balance.Error{Code: balance.ReplyTopicNotAllowed,
		Message: "the reply topic is not on the worker's allow-list (--reply-topics)"}
}

// asError is the refusal in an error, nil where it is another error or none.
func asError(err error) *balance.Error {
	if err == nil { // nearly always: what follows allocates
		return nil
	}
	var refusal *balance.Error
	if errors.As(err, &refusal) {
		return refusal
	}
	return nil
}

// unreadable is why a record cannot be answered to a customer, "" where it can.
func unreadable(err error) string {
	if err == nil {
		return ""
	}
	var reason *wire.Unreadable
	if errors.As(err, &reason) {
		return reason.Reason
	}
	return ""
}

func (e *Engine) step(r *request, customerID string, remember bool, memo []byte) store.Step {
	return store.Step{
		Now: r.now, Customer: customerID, Origin: r.origin, Remember: remember,
		IdempotencyKey: r.headers.IdempotencyKey, IdempotencyWindow: e.options.IdempotencyWindow, Memo: memo,
	}
}
