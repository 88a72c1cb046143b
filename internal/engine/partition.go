package engine

import (
	"context"
	"log/slog"

	"github.com/segmentio/kafka-go"

	"tollgate/internal/balance"
	"tollgate/internal/store"
	"tollgate/internal/stream"
)

// partition decides the records of one partition, and while none come has the store forget the outcomes of
// those that are committed.
type partition struct {
	engine    *Engine
	logger    *slog.Logger
	topic     string
	id        int
	source    string // of the last batch
	committed int64  // as of it
	next      int64  // the offset behind the last batch
	held      held
	told      int         // records held back, as the observer knows
	failed    func(error) // of the last batch
	// forgotten is the offset below which all outcomes are forgotten.
	forgotten int64
	// strangers are customers that do not exist and were asked about, and the offset of the record.
	strangers []stranger
	// locks are those of the batch whose state is to be noted.
	locks map[store.LockRef]balance.Lock
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
	return &partition{
		engine: e, logger: e.logger.With("topic", topic, "partition", id), topic: topic, id: id,
		held: held{bounds: e.options.HoldBack.orDefaults()},
	}
}

// Decide decides the records of a batch, in order, but those that wait for their Redis shard, and goes on with those that did.
func (p *partition) Decide(ctx context.Context, batch stream.Batch) (stream.Decision, error) {
	p.source, p.committed = store.Source(batch.Cluster, batch.Topic, batch.Partition, batch.Lifetime), batch.Committed
	p.failed = batch.Failed
	var out []kafka.Message
	if !p.held.empty() {
		records, err := p.goOn(ctx, len(batch.Records) == 0)
		if err != nil {
			return stream.Decision{}, err
		}
		out = records
	}
	if len(batch.Records) > 0 {
		records, err := p.decide(ctx, batch)
		if err != nil {
			return stream.Decision{}, err
		}
		if out == nil {
			out = records
		} else {
			out = append(out, records...)
		}
		p.next = batch.Records[len(batch.Records)-1].Offset + 1
	}
	p.next = max(p.next, batch.Next)
	p.noteLocks(ctx)
	p.tell()
	if len(p.strangers) > strangersAtOnce && p.strangers[0].offset < batch.Committed && p.held.empty() {
		p.forget(ctx, batch.Committed)
	}
	return stream.Decision{Records: out, Next: p.held.first(max(p.next, batch.Committed))}, nil
}

// decide decides the records of a batch.
func (p *partition) decide(ctx context.Context, batch stream.Batch) ([]kafka.Message, error) {
	e := p.engine
	e.observer.Batched(len(batch.Records))
	var behind func(*request) bool
	if !p.held.empty() {
		behind = func(r *request) bool {
			if !p.held.mustWait(r.customerID, r.record.Offset) {
				return false
			}
			p.held.add(r, nil)
			return true
		}
	}
	a := e.ask(batch.Records, p.source, batch.Committed, behind)
	var err error
	if a.replies, a.waits, err = e.run(ctx, a.calls, batch.Whole, p.failed); err != nil {
		return nil, err
	}
	if a.waits {
		p.warn(a)
	}
	out, err := e.conclude(a, func(n int, reason error) { p.held.add(&a.requests[n], reason) }, p.answered)
	p.held.sort()
	return out, err
}

// answered notes a record that was decided.
func (p *partition) answered(r *request) {
	if r.stranger {
		p.strangers = append(p.strangers, stranger{r.customerID, r.record.Offset})
		if n := len(p.strangers); n > mostStrangers {
			p.strangers = p.strangers[n-mostStrangers:]
		}
	}
	if r.lock != nil {
		if p.locks == nil {
			p.locks = map[store.LockRef]balance.Lock{}
		}
		p.locks[store.LockRef{CustomerID: r.customerID, LockID: r.lock.ID}] = *r.lock
	}
	if r.madeLock != "" { // another check of the batch may have been denied it
		delete(p.locks, store.LockRef{CustomerID: r.customerID, LockID: r.madeLock})
	}
	p.held.passed(r.customerID, r.record.Offset)
}

// noteLocks tells sweepers what became of locks. If it cannot, they find out.
func (p *partition) noteLocks(ctx context.Context) {
	if len(p.locks) == 0 {
		return
	}
	if err := p.engine.store.NoteLocks(ctx, p.locks); err != nil {
		p.logger.Debug("locks that are settled stay in the index until they are due", "error", err)
	}
	clear(p.locks)
}

// Rest forgets what is committed.
func (p *partition) Rest(ctx context.Context, committed int64) (again bool) {
	if !p.held.empty() {
		return false
	}
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
