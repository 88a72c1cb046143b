package stream

import (
	"sync"
	"sync/atomic"
	"time"

	"tollgate/internal/kafka"
)

// progress is how far a partition has come, for those who look at it from outside.
type progress struct {
	committed atomic.Int64 // offset, -1 if it is not known

	mutex   sync.Mutex
	trouble error // what keeps it from going on
}

func newProgress() *progress {
	p := &progress{}
	p.committed.Store(-1)
	return p
}

// commit notes an offset that is committed.
func (p *progress) commit(offset int64) {
	p.committed.Store(offset)
	p.fail(nil)
}

// fail notes what keeps the partition from going on, nil for nothing.
func (p *progress) fail(err error) {
	p.mutex.Lock()
	defer p.mutex.Unlock()
	p.trouble = err
}

func (p *progress) reason() string {
	p.mutex.Lock()
	defer p.mutex.Unlock()
	if p.trouble == nil {
		return "no error is known; they are being decided, or published"
	}
	return p.trouble.Error()
}

// Stall is a partition that has had records for a while and does not go on.
type Stall struct {
	kafka.Target
	For    time.Duration
	Lag    int64 // records
	Reason string
}
