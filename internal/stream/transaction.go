package stream

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/segmentio/kafka-go"
	"github.com/segmentio/kafka-go/protocol"
)

const (
	// transactionTimeout is when the broker aborts a transaction that nobody ends. Until
	// then it hides what comes after it from consumers that read only what is committed.
	transactionTimeout = 30 * time.Second
	// abortTimeout bounds the courtesy of a worker that has lost its partition.
	abortTimeout = time.Second
	// The markers of the transaction before are written after its end was acknowledged.
	firstConcurrentPause = time.Millisecond
	longConcurrentPause  = 50 * time.Millisecond
)

// exactlyOnce publishes what a batch led to and commits the batch in one Kafka
// transaction. Each partition has a transactional id of its own, so that whoever takes
// it over ends what the owner before left open and fences it (docs/adr/0005).
//
// Invariant: a transaction that did not end as it should is never gone on with. The next
// session ends it, and the committed offset tells whether it was committed.
type exactlyOnce struct {
	*flow
	id      string // transactional id
	session kafka.ProducerSession

	joined    map[target]bool  // partitions that are part of the transaction
	sequences map[target]int32 // of the next record, by partition
}

// open starts a session: what was open under the transactional id is aborted, or
// committed to the end, and who opened it is fenced.
func (e *exactlyOnce) open(ctx context.Context) error {
	// Not for safety, but so that a worker that was frozen does not fence the new owner.
	if err := e.member.confirm(ctx); err != nil {
		return err
	}
	return e.initSession(ctx)
}

// reopen starts another session and returns the committed offset. It fails with ErrPartitionLost
// where somebody has set that meanwhile.
func (e *exactlyOnce) reopen(ctx context.Context) (offset int64, err error) {
	err = e.insist(ctx, "cannot begin a producer session, trying again", func() error {
		if err := e.open(ctx); err != nil {
			return err
		}
		all, err := commitments(ctx, e.consumer.broker.Client, e.consumer.options.Group, e.topic, []int{e.partition})
		if err != nil {
			return err
		}
		committed := all[e.partition]
		if found, ours := readMark(committed.metadata, committed.offset); !ours || found != e.mark {
			return fmt.Errorf("%w: the lifetime of its offsets has ended", ErrPartitionLost)
		}
		offset = committed.offset
		return nil
	})
	return offset, err
}

func (e *exactlyOnce) initSession(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, produceTimeout)
	defer cancel()
	return whileConcurrent(ctx, func() error {
		response, err := e.consumer.broker.Client.InitProducerID(ctx, &kafka.InitProducerIDRequest{
			TransactionalID: e.id, TransactionTimeoutMs: int(transactionTimeout.Milliseconds()),
			ProducerID: -1, ProducerEpoch: -1, // whatever session was there before
		})
		if err == nil {
			err = response.Error
		}
		if err != nil {
			return fmt.Errorf("begin a session of %s: %w", e.id, err)
		}
		e.session, e.sequences = *response.Producer, map[target]int32{}
		return nil
	})
}

func (e *exactlyOnce) deliver(ctx context.Context, d decided) error {
	for try := 0; ; try++ {
		err := e.transact(ctx, d)
		if err == nil {
			break
		}
		if errors.Is(err, ErrPartitionLost) {
			e.abort(ctx)
			return err
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		logRetry(e.logger, try, "a transaction failed, trying again", err)
		e.consumer.observer.Retried()
		e.consumer.publisher.forget()
		if !pause(ctx, try) {
			return context.Cause(ctx)
		}
		committed, err := e.reopen(ctx)
		if err != nil {
			return err
		}
		if committed >= d.next {
			break // only the answer was lost
		}
	}
	e.committed.Store(d.next)
	return nil
}

// transact tries once. Whether the transaction took place is not known where it fails.
func (e *exactlyOnce) transact(ctx context.Context, d decided) error {
	publisher, refused := e.consumer.publisher, e.consumer.options.Refused
	targets, err := publisher.route(ctx, d.out)
	if err != nil {
		return err
	}
	e.joined = map[target]bool{}
	if err := e.join(ctx, slices.Collect(maps.Keys(targets))); err != nil {
		return err
	}
	if err := e.joinOffsets(ctx); err != nil {
		return err
	}
	// One after the other: a broker that is asked by two requests at a time whether a
	// producer's partition is part of its transaction gives one of them up.
	if err := (publication{Publisher: publisher, produce: e.produce, refused: refused}).publish(ctx, targets); err != nil {
		return err
	}
	if err := e.commitOffset(ctx, d.next); err != nil {
		return err
	}
	return e.end(ctx, true)
}

// join adds the partitions to the transaction.
func (e *exactlyOnce) join(ctx context.Context, targets []target) error {
	topics := map[string][]kafka.AddPartitionToTxn{}
	for _, to := range targets {
		topics[to.topic] = append(topics[to.topic], kafka.AddPartitionToTxn{Partition: to.partition})
	}
	if len(topics) == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, produceTimeout)
	defer cancel()
	return whileConcurrent(ctx, func() error {
		response, err := e.consumer.broker.Client.AddPartitionsToTxn(ctx, &kafka.AddPartitionsToTxnRequest{
			TransactionalID: e.id, ProducerID: e.session.ProducerID, ProducerEpoch: e.session.ProducerEpoch, Topics: topics,
		})
		if err == nil {
			for _, partitions := range response.Topics {
				for _, partition := range partitions {
					err = errors.Join(err, partition.Error)
				}
			}
		}
		if err != nil {
			return fmt.Errorf("add partitions to the transaction: %w", err)
		}
		for _, to := range targets {
			e.joined[to] = true
		}
		return nil
	})
}

// joinOffsets adds the group's offsets to the transaction.
func (e *exactlyOnce) joinOffsets(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, produceTimeout)
	defer cancel()
	return whileConcurrent(ctx, func() error {
		response, err := e.consumer.broker.Client.AddOffsetsToTxn(ctx, &kafka.AddOffsetsToTxnRequest{
			TransactionalID: e.id, ProducerID: e.session.ProducerID, ProducerEpoch: e.session.ProducerEpoch,
			GroupID: e.consumer.options.Group,
		})
		if err == nil {
			err = response.Error
		}
		if err != nil {
			return fmt.Errorf("add offsets to the transaction: %w", err)
		}
		return nil
	})
}

// produce writes the batches as part of the transaction.
func (e *exactlyOnce) produce(ctx context.Context, batches map[target][]kafka.Message) map[target]error {
	var late []target // what takes the place of records that the broker refused
	for to := range batches {
		if !e.joined[to] {
			late = append(late, to)
		}
	}
	if err := e.join(ctx, late); err != nil {
		return allFailed(slices.Collect(maps.Keys(batches)), err)
	}
	failures := e.consumer.publisher.produce(ctx, batches, e.id, func(to target, records []kafka.Record) (protocol.RawRecordSet, error) {
		return transactionalBatch(records, e.session, e.sequences[to])
	})
	for to, batch := range batches {
		if failures[to] == nil {
			e.sequences[to] = sequenceAfter(e.sequences[to], len(batch))
		}
	}
	return failures
}

// commitOffset makes the group's offset part of the transaction. The group refuses it of a
// member of an earlier generation, whatever the producer's epoch.
func (e *exactlyOnce) commitOffset(ctx context.Context, next int64) error {
	ctx, cancel := context.WithTimeout(ctx, produceTimeout)
	defer cancel()
	response, err := e.consumer.broker.Client.TxnOffsetCommit(ctx, &kafka.TxnOffsetCommitRequest{
		TransactionalID: e.id, GroupID: e.consumer.options.Group,
		ProducerID: e.session.ProducerID, ProducerEpoch: e.session.ProducerEpoch,
		GenerationID: e.generation, MemberID: e.member.generation.MemberID,
		Topics: map[string][]kafka.TxnOffsetCommit{e.topic: {{Partition: e.partition, Offset: next, Metadata: e.mark.metadata(next)}}},
	})
	if err == nil {
		for _, partition := range response.Topics[e.topic] {
			err = errors.Join(err, partition.Error)
		}
	}
	switch {
	case isFenced(err):
		return fmt.Errorf("%w: %w", ErrPartitionLost, err)
	case err != nil:
		return fmt.Errorf("commit the offset in the transaction: %w", err)
	}
	return nil
}

// end ends the transaction.
func (e *exactlyOnce) end(ctx context.Context, commit bool) error {
	ctx, cancel := context.WithTimeout(ctx, produceTimeout)
	defer cancel()
	return whileConcurrent(ctx, func() error {
		response, err := e.consumer.broker.Client.EndTxn(ctx, &kafka.EndTxnRequest{
			TransactionalID: e.id, ProducerID: e.session.ProducerID, ProducerEpoch: e.session.ProducerEpoch, Committed: commit,
		})
		if err == nil {
			err = response.Error
		}
		if err != nil {
			return fmt.Errorf("end the transaction: %w", err)
		}
		return nil
	})
}

// abort ends the transaction early, where that is possible: the new owner's session does
// so at the latest.
func (e *exactlyOnce) abort(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, abortTimeout)
	defer cancel()
	if err := e.end(ctx, false); err != nil {
		e.logger.Debug("the transaction is left to the next owner to abort", "error", err)
	}
}

// whileConcurrent tries again while the coordinator is busy with the transaction before.
func whileConcurrent(ctx context.Context, try func() error) error {
	for wait := firstConcurrentPause; ; wait = min(2*wait, longConcurrentPause) {
		err := try()
		if !errors.Is(err, kafka.ConcurrentTransactions) {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(wait):
		}
	}
}
