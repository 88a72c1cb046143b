package engine

import (
	"cmp"
	"context"
	"slices"
	"time"

	"github.com/segmentio/kafka-go"

	"tollgate/internal/retry"
)

// HoldBack bounds what a partition holds back while a shard of a Redis Cluster does not answer.
type HoldBack struct {
	// Records and Bytes are held back at the most, and a batch beyond. There, the whole partition waits.
	Records, Bytes int
	// Ahead is how far behind the first record that waits others are decided, in offsets: after a crash they come again. And
	// of one customer so many: in a Cluster their outcomes are part of its value until the first is committed.
	Ahead, AheadOfCustomer int
}

func (b HoldBack) orDefaults() HoldBack {
	return HoldBack{
		Records: cmp.Or(b.Records, 10_000), Bytes: cmp.Or(b.Bytes, 4<<20),
		Ahead: cmp.Or(b.Ahead, 100_000), AheadOfCustomer: cmp.Or(b.AheadOfCustomer, 1_000),
	}
}

// held are the records of a partition that wait for their Redis shard, in the order of their offsets.
//
// Invariant: of a customer with a record that is held all later ones are, too, so that its records are decided in order.
type held struct {
	bounds    HoldBack
	records   []heldRecord
	customers map[string]int // how many of each
	bytes     int
	unsorted  bool
	reason    error // why the last that was tried was not answered
	tries     int   // since one was
	nextTry   time.Time
	atOnce    int // how many are tried together, 0: all
	// ahead are the offsets behind the first that were decided, by customer.
	ahead map[string][]int64
}

type heldRecord struct {
	kafka.Message
	customerID string
	bytes      int
}

func (h *held) empty() bool { return len(h.records) == 0 }

func (h *held) full() bool { return len(h.records) >= h.bounds.Records || h.bytes >= h.bounds.Bytes }

// first is the offset of the first, or the one behind all that came.
func (h *held) first(end int64) int64 {
	if h.empty() {
		return end
	}
	return h.records[0].Offset
}

// mustWait says whether a record must wait while others do: it is behind one of its customer, or too far ahead. The first
// never is.
func (h *held) mustWait(customerID string, offset int64) bool {
	return customerID != "" && h.customers[customerID] > 0 || h.tooFar(customerID, offset)
}

func (h *held) tooFar(customerID string, offset int64) bool {
	first := h.records[0].Offset
	return offset-first >= int64(h.bounds.Ahead) || len(behind(h.ahead[customerID], first)) >= h.bounds.AheadOfCustomer
}

// recordOverhead is about what a record takes beside its texts.
const recordOverhead = 256

// add holds a record back: a copy, so that the fetch that it is a part of can be let go.
func (h *held) add(r *request, reason error) {
	record := heldRecord{Message: *r.record, customerID: r.customerID, bytes: recordOverhead + len(r.record.Key) + len(r.record.Value)}
	record.Key, record.Value, record.Headers = slices.Clone(record.Key), slices.Clone(record.Value), slices.Clone(record.Headers)
	for i := range record.Headers {
		header := &record.Headers[i]
		header.Value = slices.Clone(header.Value)
		record.bytes += recordOverhead/4 + len(header.Key) + len(header.Value)
	}
	if h.empty() {
		h.customers, h.ahead, h.tries, h.atOnce = map[string]int{}, map[string][]int64{}, 0, 0
		h.nextTry = time.Now().Add(retry.Wait(patience, 0))
	}
	if n := len(h.records); n > 0 && h.records[n-1].Offset > record.Offset {
		h.unsorted = true
	}
	h.records = append(h.records, record)
	h.customers[record.customerID]++
	h.bytes += record.bytes
	if reason != nil {
		h.reason = reason
	}
}

func (h *held) sort() {
	if h.unsorted {
		slices.SortFunc(h.records, func(a, b heldRecord) int { return cmp.Compare(a.Offset, b.Offset) })
		h.unsorted = false
	}
}

// passed notes that a record was decided while others wait.
func (h *held) passed(customerID string, offset int64) {
	if !h.empty() && customerID != "" {
		h.ahead[customerID] = append(h.ahead[customerID], offset)
	}
}

// choose picks the places of those to be tried. away says why a customer need not be.
func (h *held) choose(away func(customerID string) error) (places []int) {
	waits := map[string]bool{}
	for i := range h.records {
		record := &h.records[i]
		if waits[record.customerID] {
			continue
		}
		err := away(record.customerID)
		if err != nil {
			h.reason = err
		}
		if err != nil || h.tooFar(record.customerID, record.Offset) {
			waits[record.customerID] = true
			continue
		}
		if places = append(places, i); len(places) == h.atOnce {
			break
		}
	}
	return places
}

// drop removes those at some places, in order.
func (h *held) drop(places []int) {
	kept := h.records[:0]
	for i, record := range h.records {
		if len(places) > 0 && places[0] == i {
			places = places[1:]
			h.bytes -= record.bytes
			if h.customers[record.customerID]--; h.customers[record.customerID] == 0 {
				delete(h.customers, record.customerID)
			}
			continue
		}
		kept = append(kept, record)
	}
	clear(h.records[len(kept):])
	h.records = kept
	if h.empty() {
		*h = held{bounds: h.bounds}
		return
	}
	for customerID, offsets := range h.ahead {
		if offsets = behind(offsets, h.records[0].Offset); len(offsets) > 0 {
			h.ahead[customerID] = offsets
		} else {
			delete(h.ahead, customerID)
		}
	}
}

// behind are the offsets behind the first of those that are held.
func behind(offsets []int64, first int64) []int64 {
	n, _ := slices.BinarySearch(offsets, first)
	return offsets[n:]
}

// failed notes a try that nothing came of, progressed one that something did.
func (h *held) failed() {
	h.nextTry = time.Now().Add(retry.Wait(patience, h.tries))
	h.tries++
}

func (h *held) progressed() {
	h.nextTry, h.tries = time.Time{}, 0
}

// goOn tries what is held back, if it is time to or asked for, and until there is room for a batch.
func (p *partition) goOn(ctx context.Context, asked bool) (out []kafka.Message, err error) {
	for {
		if !asked && !p.held.full() && time.Now().Before(p.held.nextTry) {
			return out, nil
		}
		decided, err := p.retry(ctx)
		if err != nil {
			return nil, err
		}
		out = append(out, decided...)
		if asked || p.held.empty() || !p.held.full() {
			return out, nil
		}
		p.tell()
		select {
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case <-time.After(time.Until(p.held.nextTry)):
		}
	}
}

// retry tries once what is held back.
func (p *partition) retry(ctx context.Context) ([]kafka.Message, error) {
	h := &p.held
	places := h.choose(func(customerID string) error { return p.engine.store.AwayFor(ctx, customerID) })
	records := make([]kafka.Message, len(places))
	for i, place := range places {
		records[i] = h.records[place].Message
	}
	a := p.engine.ask(records, p.source, p.committed, nil)
	var err error
	if a.replies, a.waits, err = p.engine.run(ctx, a.calls, false, p.failed); err != nil {
		return nil, err
	}
	stay := make([]bool, len(places))
	slow := false
	out, err := p.engine.conclude(a, func(n int, reason error) {
		stay[n], h.reason = true, reason
		slow = slow || isTimeout(reason)
	}, p.answered)
	if err != nil {
		return nil, err
	}
	// Of a shard that is too slow for all ever fewer are asked at a time.
	if slow {
		h.atOnce = max(1, len(places)/2)
	} else if len(places) > 0 {
		h.atOnce *= 2
	}
	n := 0
	for i, place := range places {
		if !stay[i] {
			places[n] = place
			n++
		}
	}
	if n == 0 {
		if retry.Rarely(h.tries) {
			p.logger.Warn("records still wait for their redis shard", "records", len(h.records), "error", h.reason, "try", h.tries+1)
		}
		p.engine.observer.RedisRetried()
		h.failed()
		return nil, nil
	}
	h.progressed()
	h.drop(places[:n])
	if h.empty() {
		p.logger.Info("all records that were held back are decided")
	}
	return out, nil
}

// warn tells of the first records that are held back.
func (p *partition) warn(a *asked) {
	if !p.held.empty() {
		return
	}
	for i := range a.replies {
		if reason := a.replies[i].Waits; reason != nil {
			p.logger.Warn("records wait for their redis shard; those of other customers are decided", "error", reason)
			return
		}
	}
}

// tell has the observer know how many records are held back.
func (p *partition) tell() {
	if n := len(p.held.records); n != p.told {
		p.engine.observer.HeldBack(p.topic, p.id, n, p.held.reason)
		p.told = n
	}
}
