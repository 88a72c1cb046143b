// Package engine is the flow from a record to a decision to records: it decodes
// requests, has the store decide them, and encodes results and usage events. It
// is the only place that knows both store and stream.
package engine

import (
	"log/slog"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel"
	"golang.org/x/time/rate"

	"tollgate/internal/balance"
	"tollgate/internal/store"
	"tollgate/internal/wire"
)

// tracer does nothing unless the program sets a provider up.
var tracer = otel.Tracer("tollgate/internal/engine")

// Observer is told what happens, for metrics.
type Observer interface {
	// Checked reports the result of a check. It must not be kept.
	Checked(result *wire.Result)
	Commanded(kind string, ok bool)
	UsageEvent()
	Replayed()
	// Batched reports the records of a batch, before it is decided.
	Batched(records int)
	// Scripted reports how long Redis took for a batch.
	Scripted(took time.Duration)
	RedisRetried()
	// HeldBack reports how many records of a partition wait for their Redis shard while others are decided, and why.
	HeldBack(topic string, partition int, records int, reason error)
}

// Options are how an engine works.
type Options struct {
	Topics            wire.Topics
	ReplyTopics       []string // where a request may have its result sent
	IdempotencyWindow time.Duration
	// Clock tells the time that decisions are made at.
	Clock func() time.Time
	// HoldBack bounds what is held back; zero: the defaults.
	HoldBack HoldBack
}

// Engine decides check requests and commands. It is a stream.Decider.
type Engine struct {
	store   *store.Store
	options Options
	// replyTopics are those that a request may name, and how often it is told that one takes no results.
	replyTopics map[string]*rate.Sometimes
	logger      *slog.Logger
	observer    Observer
	rules       atomic.Pointer[rules]
}

// rules is a catalogue, as the engine and as the scripts need it.
type rules struct {
	catalog *balance.Catalog
	items   *store.Items
}

// toldEvery is how often the log repeats what is wrong with a reply topic.
const toldEvery = 10 * time.Second

// New makes an engine.
func New(st *store.Store, catalog *balance.Catalog, options Options, logger *slog.Logger, observer Observer) *Engine {
	e := &Engine{store: st, options: options, replyTopics: map[string]*rate.Sometimes{}, logger: logger, observer: observer}
	for _, topic := range options.ReplyTopics {
		e.replyTopics[topic] = &rate.Sometimes{First: 1, Interval: toldEvery}
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
