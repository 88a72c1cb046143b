package stream

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"sync"
	"time"

	kafkago "github.com/segmentio/kafka-go"

	"tollgate/internal/kafka"
	"tollgate/internal/retry"
)

// committer commits the offsets of a generation's partitions, all that have come together while the commit before
// was under way.
type committer struct {
	generation *kafka.Generation
	linger     time.Duration // how long it insists after the generation is over
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

func newCommitter(generation *kafka.Generation, linger time.Duration, logger *slog.Logger, observer Observer) *committer {
	return &committer{
		generation: generation, linger: linger, logger: logger, observer: observer,
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
	ctx := c.generation.Lost()
	for {
		select {
		case <-c.wakeUp:
		case <-done:
			if err := c.commit(ctx); err != nil {
				c.logger.Warn("cannot commit at the end of the generation; the records will be redelivered", "error", err)
			}
			return
		}
		if err := c.commitAtLast(ctx); err != nil {
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

// commitAtLast tries until it succeeds, or no further try is allowed. Once the generation is over it insists no longer
// than partitions are handed over: all that the worker has waits for it.
func (c *committer) commitAtLast(ctx context.Context) error {
	policy := patience
	policy.Failed = func(err error, before int) {
		retry.Log(c.logger, "cannot commit, trying again", err, before)
		c.observer.Retried()
		c.fail(err)
	}
	try := func() error {
		err := c.commit(ctx)
		if errors.Is(err, ErrPartitionLost) || errors.Is(err, kafka.ErrUnanswered) {
			return retry.Permanent(err)
		}
		return err
	}
	over := c.generation.Over()
	err := retry.Do(over, policy, try)
	if err == nil || errors.Is(err, ErrPartitionLost) || errors.Is(err, kafka.ErrUnanswered) {
		return err
	}
	last, cancel := lingering(over, ctx, c.linger)
	defer cancel()
	return retry.Do(last, policy, try)
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
	err := c.generation.Commit(ctx, offsets)
	failed := c.settle(all, err)
	if len(failed) == 0 {
		return nil
	}
	c.mutex.Lock()
	defer c.mutex.Unlock()
	newer := c.due
	c.due = failed
	maps.Copy(c.due, newer)
	return err
}

// settle notes what was committed, and returns what has to be committed still.
//
// A topic that was deleted has no offsets. Whether it was is told to the consumer within seconds, and the generation is
// over then; until that a broker may know nothing of it yet.
func (c *committer) settle(all map[kafka.Target]due, err error) (failed map[kafka.Target]due) {
	failed = map[kafka.Target]due{}
	var some *kafka.CommitError
	isSome := errors.As(err, &some)
	for at, d := range all {
		why := err
		if isSome {
			why = some.Failures[at]
		}
		switch {
		case why == nil:
			d.progress.commit(d.Offset)
		case errors.Is(why, kafkago.UnknownTopicOrPartition) && c.generation.Over().Err() != nil:
			c.logger.Warn("there is no topic any more to commit an offset of", "topic", at.Topic, "partition", at.Partition, "offset", d.Offset)
		default:
			failed[at] = d
		}
	}
	return failed
}
