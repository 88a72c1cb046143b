package recordbatch

import (
	"context"
	"slices"
	"sync"

	"golang.org/x/sync/semaphore"
)

// decoders is what all readers of the process may hold together for decompressing: three of the
// largest windows, or some thirty decoders for batches as producers usually send them. With the
// garbage that the collector has not found yet it can be about twice as much.
var decoders = newBudget(32 << 20)

// budget bounds the memory of decoders. A Reader opens its decoder for a batch within the budget
// and parks it between two calls to Next. A Reader that needs room takes parked decoders away
// from others, which decompress their batch again when they go on. So nobody ever waits for a
// Reader whose owner is busy elsewhere, only for calls that are going on, and these wait for
// nothing.
type budget struct {
	room *semaphore.Weighted // bytes

	mutex   sync.Mutex
	waiting int      // calls that found no room even so
	parked  []*lease // the longest parked first
}

func newBudget(bytes int64) *budget { return &budget{room: semaphore.NewWeighted(bytes)} }

// lease is a decoder, and the memory that it was given.
type lease struct {
	decoder decoder
	bytes   int64
	active  bool // in the hands of its Reader, not parked
}

// open makes a decoder for the records of a batch.
func (b *budget) open(ctx context.Context, compression Compression, records []byte) (*lease, error) {
	plan, err := planFor(compression, records)
	if err != nil {
		return nil, err
	}
	if err := b.acquire(ctx, plan.bytes); err != nil {
		return nil, err
	}
	decoder, err := plan.open()
	if err != nil {
		b.room.Release(plan.bytes)
		return nil, err
	}
	return &lease{decoder: decoder, bytes: plan.bytes, active: true}, nil
}

func (b *budget) acquire(ctx context.Context, bytes int64) error {
	b.mutex.Lock()
	defer b.mutex.Unlock()
	for !b.room.TryAcquire(bytes) {
		if len(b.parked) > 0 {
			oldest := b.parked[0]
			b.parked = slices.Delete(b.parked, 0, 1)
			b.close(oldest)
			continue
		}
		b.waiting++ // so that nobody parks what is waited for
		b.mutex.Unlock()
		err := b.room.Acquire(ctx, bytes)
		b.mutex.Lock()
		b.waiting--
		return err
	}
	return nil
}

// park lets others take the decoder away. It returns nil if one does so at once.
func (b *budget) park(l *lease) *lease {
	if l == nil || l.bytes == 0 {
		return l
	}
	b.mutex.Lock()
	defer b.mutex.Unlock()
	if b.waiting > 0 {
		b.close(l)
		return nil
	}
	l.active = false
	b.parked = append(b.parked, l)
	return l
}

// unpark tells whether the decoder is still there.
func (b *budget) unpark(l *lease) bool {
	b.mutex.Lock()
	defer b.mutex.Unlock()
	at := slices.Index(b.parked, l)
	if at < 0 {
		return false
	}
	b.parked = slices.Delete(b.parked, at, at+1)
	l.active = true
	return true
}

// release gives a decoder back, wherever it is.
func (b *budget) release(l *lease) {
	if l != nil && (l.active || b.unpark(l)) {
		b.close(l)
	}
}

func (b *budget) close(l *lease) {
	l.active = false
	l.decoder.close()
	l.decoder = nil
	b.room.Release(l.bytes)
}
