package stream

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/segmentio/kafka-go"
)

// committer commits the offsets of a generation's flows, all that have come
// together while the commit before was under way.
type committer struct {
	member   *membership
	logger   *slog.Logger
	observer Observer
	flows    sync.WaitGroup

	mutex  sync.Mutex
	due    map[*flow]int64
	wakeUp chan struct{}
}

func newCommitter(member *membership, logger *slog.Logger, observer Observer) *committer {
	return &committer{
		member: member, logger: logger, observer: observer,
		due: map[*flow]int64{}, wakeUp: make(chan struct{}, 1),
	}
}

// commitEvery bounds the requests that committing takes. What is not committed is kept in the
// ledger, and processed again after a crash.
const commitEvery = 5 * time.Millisecond

// note says that everything below the offset is published.
func (c *committer) note(f *flow, offset int64) {
	c.mutex.Lock()
	c.due[f] = offset
	c.mutex.Unlock()
	select {
	case c.wakeUp <- struct{}{}:
	default:
	}
}

// run commits until the generation ends, and once more when its flows are done.
func (c *committer) run(generation context.Context) {
	for try := 0; ; {
		select {
		case <-c.wakeUp:
		case <-generation.Done():
			c.flows.Wait()
			if err := c.commit(context.WithoutCancel(generation)); err != nil {
				c.logger.Warn("cannot commit at the end of the generation; the records will be redelivered", "error", err)
			}
			return
		}
		err := c.commit(context.WithoutCancel(generation))
		if err == nil {
			try = 0
			select { // what comes meanwhile is committed together
			case <-time.After(commitEvery):
			case <-generation.Done():
			}
			continue
		}
		logRetry(c.logger, try, "cannot commit, trying again", err)
		c.observer.Retried()
		if errors.Is(err, ErrPartitionLost) || errors.Is(err, errUnanswered) {
			return // ends the generation
		}
		pause(generation, try)
		try++
		select {
		case c.wakeUp <- struct{}{}:
		default:
		}
	}
}

func isFenced(err error) bool {
	return errors.Is(err, kafka.IllegalGeneration) || errors.Is(err, kafka.UnknownMemberId) ||
		errors.Is(err, kafka.FencedInstanceID) || errors.Is(err, kafka.GroupIdNotFound)
}

// commit commits what is due. What failed stays due.
func (c *committer) commit(ctx context.Context) error {
	c.mutex.Lock()
	due := c.due
	c.due = map[*flow]int64{}
	c.mutex.Unlock()
	if len(due) == 0 {
		return nil
	}
	offsets := commits{}
	for f, offset := range due {
		offsets[f.topic] = append(offsets[f.topic], kafkaCommit(f.partition, offset, f.mark))
	}
	err := c.member.commit(ctx, offsets)
	if err == nil {
		for f, offset := range due {
			f.committed.Store(offset)
		}
		return nil
	}
	c.mutex.Lock()
	defer c.mutex.Unlock()
	for f, offset := range due {
		if _, newer := c.due[f]; !newer {
			c.due[f] = offset
		}
	}
	return err
}
