package main

import (
	"context"
	"sync"
	"time"
)

// awaited are requests without a result yet, by their ids, each with what is to be known of
// it then.
type awaited[T any] struct {
	mutex   sync.Mutex
	pending map[string]T
	changed chan struct{}
}

func newAwaited[T any]() *awaited[T] {
	return &awaited[T]{pending: map[string]T{}, changed: make(chan struct{}, 1)}
}

// expect notes a request before it is sent.
func (a *awaited[T]) expect(id string, known T) {
	a.mutex.Lock()
	defer a.mutex.Unlock()
	a.pending[id] = known
}

// settle has a result noted where it is that of a request, for the first time. The notes are
// made one at a time, and all are made when wait returns 0.
func (a *awaited[T]) settle(id string, note func(known T)) {
	a.mutex.Lock()
	defer a.mutex.Unlock()
	known, ours := a.pending[id]
	if !ours {
		return
	}
	delete(a.pending, id)
	note(known)
	select {
	case a.changed <- struct{}{}:
	default:
	}
}

// wait waits until every request has its result, or none has come for so long. It returns
// how many are missing.
func (a *awaited[T]) wait(ctx context.Context, patience time.Duration) int {
	timer := time.NewTimer(patience)
	defer timer.Stop()
	for {
		a.mutex.Lock()
		missing := len(a.pending)
		a.mutex.Unlock()
		if missing == 0 {
			return 0
		}
		select {
		case <-a.changed:
			timer.Reset(patience)
		case <-timer.C:
			return missing
		case <-ctx.Done():
			return missing
		}
	}
}
