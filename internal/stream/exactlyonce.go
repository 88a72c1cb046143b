package stream

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	kafkago "github.com/segmentio/kafka-go"

	"tollgate/internal/kafka"
	"tollgate/internal/retry"
)

// abortTimeout bounds the courtesy of a worker that has lost its partition.
const abortTimeout = time.Second

// longestBetweenTransactions keeps others from waiting for much longer than it takes to give a reply topic up.
const longestBetweenTransactions = time.Second

// exactlyOnce publishes what a batch led to and commits the batch in one Kafka transaction. Each partition has a
// transactional id of its own, so that whoever takes it over ends what the owner before left open and fences it
// (docs/adr/0005).
//
// Invariant: a transaction that did not end as it should is never gone on with. The next session ends it, and the
// committed offset tells whether it was committed.
type exactlyOnce struct {
	assignment   *assignment
	broker       kafka.Broker
	transactions *kafka.Transactions
	how          kafka.Delivery
	insist       insistence
	logger       *slog.Logger
}

// open starts a session: what was open under the transactional id is aborted, or committed to the end, and who
// opened it is fenced.
func (e *exactlyOnce) open(ctx context.Context) error {
	// Not for safety, but so that a worker that was frozen does not fence the new owner.
	if err := e.assignment.generation.Confirm(ctx); err != nil {
		return err
	}
	return e.transactions.Begin(ctx)
}

// errTopicGone says that the topic of a batch was deleted, and the group's offsets with it.
var errTopicGone = errors.New("the topic was deleted")

// reopen starts another session and returns the committed offset. It fails with errTopicGone, or with
// ErrPartitionLost if somebody has set that meanwhile.
func (e *exactlyOnce) reopen(ctx context.Context) (offset int64, err error) {
	err = e.insist.on(ctx, "cannot begin a producer session, trying again", func() error {
		if err := e.open(ctx); err != nil {
			return err
		}
		a := e.assignment
		all, err := e.broker.Commitments(ctx, a.group, a.Topic, []int{a.Partition})
		if err != nil {
			return err
		}
		committed := all[a.Partition]
		if found, ours := readMark(committed.Metadata, committed.Offset); !ours || found != a.mark {
			if gone, err := e.isTopicGone(ctx); err != nil {
				return err
			} else if gone {
				return retry.Permanent(errTopicGone)
			}
			return fmt.Errorf("%w: the lifetime of its offsets has ended", ErrPartitionLost)
		}
		offset = committed.Offset
		return nil
	})
	return offset, err
}

// isTopicGone says whether the topic is no longer the one that the batch was read from.
func (e *exactlyOnce) isTopicGone(ctx context.Context) (bool, error) {
	a := e.assignment
	layouts, failures, err := e.broker.Describe(ctx, []string{a.Topic})
	if err != nil {
		return false, err
	}
	if err := failures[a.Topic]; err != nil {
		return errors.Is(err, kafkago.UnknownTopicOrPartition), nil
	}
	return layouts[a.Topic].ID != a.topicID, nil
}

func (e *exactlyOnce) deliver(ctx context.Context, d *decided) error {
	if len(d.records) == 0 { // nothing has to happen together with the commit
		return e.commitAlone(ctx, d)
	}
	first := true
	err := e.insist.on(ctx, "a transaction failed, trying again", func() error {
		if !first { // whether the one before took place is not known
			e.transactions.Forget()
			committed, err := e.reopen(ctx)
			if errors.Is(err, errTopicGone) {
				return e.publishTheLast(ctx, d)
			}
			if err != nil || committed >= d.next { // only the answer was lost
				return err
			}
		}
		first = false
		return e.transact(ctx, d)
	})
	if errors.Is(err, ErrPartitionLost) {
		e.abort(ctx)
	}
	if err != nil {
		return err
	}
	e.assignment.progress.commit(d.next)
	return nil
}

// commitAlone commits past records that lead to nothing, such as the ends of other transactions.
func (e *exactlyOnce) commitAlone(ctx context.Context, d *decided) error {
	a := e.assignment
	err := e.insist.on(ctx, "cannot commit, trying again", func() error {
		err := a.generation.Commit(ctx, map[kafka.Target]kafka.Commitment{a.Target: a.commitment(d.next, d.epoch)})
		if errors.Is(err, kafka.ErrUnanswered) {
			a.generation.End(err)
			return retry.Permanent(err)
		}
		return err
	})
	if err != nil {
		return err
	}
	a.progress.commit(d.next)
	return nil
}

// transact tries once. Whether the transaction took place is not known if it fails.
func (e *exactlyOnce) transact(ctx context.Context, d *decided) error {
	a := e.assignment
	if err := e.transactions.Publish(ctx, a.group, d.records, e.how); err != nil {
		return err
	}
	if err := e.transactions.CommitOffset(ctx, a.generation, a.Target, a.commitment(d.next, d.epoch)); err != nil {
		return err
	}
	return e.transactions.End(ctx, true)
}

// publishTheLast publishes what a batch led to whose topic was deleted. It was decided, and deducted, so somebody should
// learn of it. There is no offset to commit, nor anybody who could be given the batch again: the group has confirmed
// that the partition is ours, and a topic that is made again has other records. It is tried once, since without an
// offset nothing tells whether it took place.
func (e *exactlyOnce) publishTheLast(ctx context.Context, d *decided) error {
	e.logger.Warn("the topic was deleted; what was decided of it is published without an offset", "records", len(d.batch.Records))
	err := e.transactions.Publish(ctx, e.assignment.group, d.records, e.how)
	if err == nil {
		err = e.transactions.End(ctx, true)
	}
	if err != nil {
		e.logger.Error("what was decided of a topic that was deleted may not have been published", "records", len(d.batch.Records), "error", err)
		return fmt.Errorf("%w: %w: %w", ErrPartitionLost, errTopicGone, err)
	}
	return nil
}

// abort ends the transaction early, if that is possible: the new owner's session does so at the latest.
func (e *exactlyOnce) abort(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), abortTimeout)
	defer cancel()
	if err := e.transactions.End(ctx, false); err != nil {
		e.logger.Debug("the transaction is left to the next owner to abort", "error", err)
	}
}
