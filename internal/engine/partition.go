package engine

import (
	"context"
	"log/slog"
	"time"

	"github.com/segmentio/kafka-go"

	"tollgate/internal/store"
	"tollgate/internal/stream"
)

// partition decides the records of one partition, and while none come has the store
// forget the outcomes of those that are committed.
//
// Invariant: queue has each ledger of latest once.
type partition struct {
	engine *Engine
	logger *slog.Logger
	latest map[store.Ledger]remembered
	queue  []store.Ledger
	// committed is up to where outcomes may be forgotten.
	committed int64
	// thorough says that no ledger is left with its last outcome, whatever that costs.
	thorough bool
}

// remembered is the last record of a ledger.
type remembered struct {
	offset int64
	at     time.Time
}

const (
	// mostRemembered bounds the ledgers that are kept in mind. Of commands, whose outcomes are
	// large, older ones are then forgotten first; of checks, later ones keep their last
	// outcome until the customer's next record: forgetting takes a call of its own.
	mostRemembered = 4000
	// forgetAfter spares the ledgers of customers that come again and again: these are cut
	// by their own calls.
	forgetAfter = time.Second
	// forgetAtOnce bounds how long a batch waits for a rest to end.
	forgetAtOnce = 100
)

// Partition begins a partition that was assigned.
func (e *Engine) Partition(topic string, id int) stream.PartitionDecider {
	return &partition{
		engine: e, logger: e.logger.With("topic", topic, "partition", id), latest: map[store.Ledger]remembered{},
		thorough: topic == e.options.Topics.Commands,
	}
}

func (p *partition) Decide(ctx context.Context, batch stream.Batch) ([]kafka.Message, error) {
	p.committed = batch.Committed
	out, calls, err := p.engine.decide(ctx, batch)
	if err != nil {
		return nil, err
	}
	latest := remembered{batch.Records[len(batch.Records)-1].Offset, p.engine.options.Clock()}
	for i := range calls {
		if ledger, ok := calls[i].Ledger(); ok {
			p.remember(ledger, latest)
		}
	}
	for p.thorough && len(p.queue) > mostRemembered && p.forget(ctx, 0) > 0 {
	}
	return out, nil
}

func (p *partition) remember(ledger store.Ledger, latest remembered) {
	if _, known := p.latest[ledger]; !known {
		if len(p.queue) >= mostRemembered && !p.thorough {
			return
		}
		p.queue = append(p.queue, ledger)
	}
	p.latest[ledger] = latest
}

// Rest forgets a few ledgers.
func (p *partition) Rest(ctx context.Context, committed int64) (again bool) {
	p.committed = committed
	p.forget(ctx, forgetAfter)
	return len(p.queue) > 0
}

// forget forgets some of the ledgers whose last record is committed and so old, and
// returns how many.
func (p *partition) forget(ctx context.Context, age time.Duration) int {
	var due []store.Ledger
	now := p.engine.options.Clock()
	for range min(len(p.queue), forgetAtOnce) {
		ledger := p.queue[0]
		if latest := p.latest[ledger]; latest.offset < p.committed && now.Sub(latest.at) >= age {
			due = append(due, ledger)
		} else {
			p.queue = append(p.queue, ledger) // its turn comes again
		}
		p.queue = p.queue[1:]
	}
	if len(due) == 0 {
		return 0
	}
	if err := p.engine.store.Forget(ctx, due, p.committed); err != nil {
		p.logger.Warn("outcomes are kept until the next record of their customers", "ledgers", len(due), "error", err)
	}
	for _, ledger := range due {
		delete(p.latest, ledger)
	}
	return len(due)
}
