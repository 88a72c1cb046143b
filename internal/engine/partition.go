package engine

import (
	"context"
	"log/slog"

	"github.com/segmentio/kafka-go"

	"tollgate/internal/stream"
)

// partition decides the records of one partition, and while none come has the store forget the outcomes of
// those that are committed.
type partition struct {
	engine *Engine
	logger *slog.Logger
	source string // of the last batch
	next   int64  // the offset behind the last batch
	// forgotten is the offset below which all outcomes are forgotten.
	forgotten int64
	// strangers are customers that do not exist and were asked about, and the offset of the record.
	strangers []stranger
}

type stranger struct {
	customerID string
	offset     int64
}

// mostStrangers bounds the strangers that are kept in mind. What the store keeps of others ends by itself,
// but late.
const mostStrangers = 50_000

// Partition begins a partition that was assigned.
func (e *Engine) Partition(topic string, id int) stream.PartitionDecider {
	return &partition{engine: e, logger: e.logger.With("topic", topic, "partition", id)}
}

func (p *partition) Decide(ctx context.Context, batch stream.Batch) ([]kafka.Message, error) {
	decided, err := p.engine.decide(ctx, batch)
	if err != nil {
		return nil, err
	}
	p.source, p.next = decided.source, batch.Records[len(batch.Records)-1].Offset+1
	p.strangers = append(p.strangers, decided.strangers...)
	if n := len(p.strangers); n > mostStrangers {
		p.strangers = p.strangers[n-mostStrangers:]
	}
	if len(p.strangers) > strangersAtOnce && p.strangers[0].offset < batch.Committed {
		p.forget(ctx, batch.Committed)
	}
	return decided.records, nil
}

// Rest forgets what is committed.
func (p *partition) Rest(ctx context.Context, committed int64) (again bool) {
	if p.source == "" || committed <= p.forgotten {
		return p.forgotten < p.next
	}
	return p.forget(ctx, committed) && p.forgotten < p.next
}

// strangersAtOnce bounds how long a batch waits for the forgetting of strangers.
const strangersAtOnce = 1000

// forget says whether it could; if not, the next record brings the next try.
func (p *partition) forget(ctx context.Context, committed int64) bool {
	n := 0
	var ids []string
	for n < len(p.strangers) && n < strangersAtOnce && p.strangers[n].offset < committed {
		ids = append(ids, p.strangers[n].customerID)
		n++
	}
	if err := p.engine.store.Forget(ctx, p.source, committed, ids); err != nil {
		p.logger.Warn("outcomes are kept until the next record", "error", err)
		return false
	}
	p.strangers = p.strangers[n:]
	if len(p.strangers) == 0 || p.strangers[0].offset >= committed {
		p.forgotten = committed
	}
	return true
}
