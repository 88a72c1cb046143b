package stream

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"tollgate/internal/kafka"
	"tollgate/internal/retry"
)

// committer commits the offsets of a generation's partitions, all that have come together while the commit before
// was under way.
type committer struct {
	generation *kafka.Generation
	logger     *slog.Logger
	observer   Observer

	mutex  sync.Mutex
	due    map[kafka.Target]due
	wakeUp chan struct{}
}

// due is what is to be committed of a partition.
type due struct {
	kafka.Commitment
	progress *progress
}

func newCommitter(generation *kafka.Generation, logger *slog.Logger, observer Observer) *committer {
	return &committer{
		generation: generation, logger: logger, observer: observer,
		due: map[kafka.Target]due{}, wakeUp: make(chan struct{}, 1),
	}
}

// commitEvery bounds the requests that committing takes. What is not committed is kept in the ledger, and processed
// again after a crash.
const commitEvery = 5 * time.Millisecond

// note says that everything below an offset of a partition is published.
func (c *committer) note(a *assignment, commitment kafka.Commitment) {
	c.mutex.Lock()
	c.due[a.Target] = due{commitment, a.progress}
	c.mutex.Unlock()
	select {
	case c.wakeUp <- struct{}{}:
	default:
	}
}

// run commits until all of the generation's partitions are done, and then once more. It ends the generation if it
// can commit no more.
func (c *committer) run(done <-chan struct{}) {
	ctx, cancel := context.WithCancel(c.generation.Lost())
	defer cancel()
	go func() { // nothing is insisted on once all are done
		select {
		case <-done:
			cancel()
		case <-ctx.Done():
		}
	}()
	for {
		select {
		case <-c.wakeUp:
		case <-done:
			if err := c.commit(c.generation.Lost()); err != nil {
				c.logger.Warn("cannot commit at the end of the generation; the records will be redelivered", "error", err)
			}
			return
		}
		if err := c.commitAtLast(ctx); err != nil && !isClosed(done) {
			c.logger.Warn("cannot commit", "error", err)
			c.generation.End(err)
			return
		}
		select { // what comes meanwhile is committed together
		case <-time.After(commitEvery):
		case <-done:
		}
	}
}

// commitAtLast tries until it succeeds, or no further try is allowed.
func (c *committer) commitAtLast(ctx context.Context) error {
	policy := patience
	policy.Failed = func(err error, before int) {
		retry.Log(c.logger, "cannot commit, trying again", err, before)
		c.observer.Retried()
		c.fail(err)
	}
	return retry.Do(ctx, policy, func() error {
		err := c.commit(ctx)
		if errors.Is(err, ErrPartitionLost) || errors.Is(err, kafka.ErrUnanswered) {
			return retry.Permanent(err)
		}
		return err
	})
}

func isClosed(done <-chan struct{}) bool {
	select {
	case <-done:
		return true
	default:
		return false
	}
}

func (c *committer) fail(err error) {
	c.mutex.Lock()
	defer c.mutex.Unlock()
	for _, d := range c.due {
		d.progress.fail(err)
	}
}

// commit commits what is due. What failed stays due.
func (c *committer) commit(ctx context.Context) error {
	c.mutex.Lock()
	all := c.due
	c.due = map[kafka.Target]due{}
	c.mutex.Unlock()
	if len(all) == 0 {
		return nil
	}
	offsets := make(map[kafka.Target]kafka.Commitment, len(all))
	for at, d := range all {
		offsets[at] = d.Commitment
	}
	refused, err := c.generation.Commit(ctx, offsets)
	c.mutex.Lock()
	defer c.mutex.Unlock()
	lasting := len(refused) > 0
	for at, d := range all {
		reason, isRefused := refused[at]
		switch {
		case !isRefused && err == nil || !isRefused && len(refused) > 0:
			d.progress.commit(d.Offset)
		case kafka.IsTopicRefused(reason): // it is gone: there is nothing to commit for
			d.progress.fail(reason)
			c.logger.Warn("cannot commit for a topic that is gone", "topic", at.Topic, "partition", at.Partition, "error", reason)
		default:
			lasting = false
			if _, newer := c.due[at]; !newer {
				c.due[at] = d
			}
		}
	}
	if lasting { // all that was refused is gone
		return nil
	}
	return err
}
