package engine

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"time"

	"github.com/segmentio/kafka-go"

	"tollgate/internal/retry"
	"tollgate/internal/store"
)

// Sweeper sees to it that locks expire also if nobody asks for their customers: it sends the command lock.expire for
// those that are due. All workers sweep; each lock is found by one of them.
type Sweeper struct {
	Store *store.Store
	// Send publishes records, and returns once they are acknowledged.
	Send     func(ctx context.Context, records []kafka.Message) error
	Commands string // the topic
	Clock    func() time.Time
	Observer SweepObserver
	Logger   *slog.Logger

	sent map[store.LockRef]sweep
}

// SweepObserver is told what a Sweeper does, for metrics.
type SweepObserver interface {
	// Swept reports commands that were sent.
	Swept(locks int)
	// SweepFailed reports that locks could not be looked for, or commands not be sent.
	SweepFailed()
}

// sweep is when a command was sent for a lock, and when the lock is found again unless somebody decides the command.
type sweep struct {
	at      time.Time
	againMs int64
}

const (
	sweepEvery = 500 * time.Millisecond
	// sweepLease is how long a lock is left to the worker that found it, which may end before it has sent the command.
	sweepLease = 3 * time.Second
	// sweepAgain is how often a command is sent again that was sent and is not decided yet.
	sweepAgain   = time.Minute
	sweepsAtOnce = 500
)

// Run sweeps until ctx ends.
func (s *Sweeper) Run(ctx context.Context) {
	s.sent = map[store.LockRef]sweep{}
	failures := 0
	for ctx.Err() == nil {
		more, err := s.once(ctx)
		switch {
		case err != nil && ctx.Err() == nil:
			retry.Log(s.Logger, "locks that expire are released with the next request of their customers only", err, failures)
			s.Observer.SweepFailed()
			failures++
			retry.Pause(ctx, patience, failures)
		case err == nil && !more:
			failures = 0
			retry.Pause(ctx, retry.Policy{First: sweepEvery, Longest: sweepEvery}, 0)
		}
	}
}

// once says whether there may be more.
func (s *Sweeper) once(ctx context.Context) (more bool, err error) {
	now := s.Clock()
	found, err := s.Store.ClaimLocks(ctx, now, sweepLease, sweepsAtOnce)
	if err != nil {
		return false, err
	}
	for ref, sent := range s.sent {
		if now.Sub(sent.at) >= sweepAgain {
			delete(s.sent, ref)
		}
	}
	var records []kafka.Message
	var due []store.LockRef
	for _, lock := range found {
		before, known := s.sent[lock.LockRef]
		// The command waits for its turn; or who decided it has a clock that is behind.
		if known && (before.againMs == lock.DueMs || now.Sub(before.at) < sweepLease) {
			s.sent[lock.LockRef] = sweep{before.at, now.Add(sweepLease).UnixMilli()}
			continue
		}
		value, err := json.Marshal(map[string]string{"type": "lock.expire", "customer_id": lock.CustomerID, "lock_id": lock.LockID})
		if err != nil {
			return false, fmt.Errorf("write a command: %w", err)
		}
		records = append(records, kafka.Message{Topic: s.Commands, Partition: -1, Key: []byte(lock.CustomerID), Value: value})
		due = append(due, lock.LockRef)
	}
	if len(records) > 0 {
		if err := s.Send(ctx, records); err != nil {
			return false, err
		}
		for _, ref := range due {
			s.sent[ref] = sweep{now, now.Add(sweepLease).UnixMilli()}
		}
		s.Observer.Swept(len(records))
	}
	return len(found) == sweepsAtOnce, nil
}
