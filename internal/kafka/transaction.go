package kafka

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"time"

	kafkago "github.com/segmentio/kafka-go"
	"github.com/twmb/franz-go/pkg/kmsg"

	"tollgate/internal/retry"
)

// transactionTimeout is when a broker aborts a transaction that nobody ends. Until then it hides what comes after
// it from consumers that read only what is committed.
const transactionTimeout = 30 * time.Second

// whileBusy is how often a coordinator is asked again that is busy with the transaction before: the markers of that
// are written after its end was acknowledged.
var whileBusy = retry.Policy{First: time.Millisecond, Longest: 50 * time.Millisecond}

// Transactions are the transactions under one transactional id, one after the other. Their methods try once, are
// called one at a time, and fail with ErrFenced if somebody else has begun under the same id or the group has gone
// on without the member. After any other failure nobody knows how far the transaction has come: Begin ends it.
type Transactions struct {
	publisher *Publisher
	id        string
	session   session
	joined    map[Target]bool // partitions that are part of the transaction
}

// Transactions begins nothing yet.
func (p *Publisher) Transactions(id string) *Transactions {
	return &Transactions{publisher: p, id: id, session: session{publisher: p}}
}

// Begin begins a session: what was open under the transactional id is aborted, or committed to the end, and whoever
// opened it is fenced.
func (t *Transactions) Begin(ctx context.Context) error {
	return t.ask(ctx, func(ctx context.Context) error { return t.session.begin(ctx, t.id, transactionTimeout) })
}

// ask asks until the coordinator is no longer busy.
func (t *Transactions) ask(ctx context.Context, try func(ctx context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	return retry.Do(ctx, whileBusy, func() error {
		err := try(ctx)
		if errors.Is(err, kafkago.ConcurrentTransactions) {
			return err
		}
		if err != nil {
			return retry.Permanent(err)
		}
		return nil
	})
}

// Publish writes records as part of a transaction that it begins, with the offsets of a group.
func (t *Transactions) Publish(ctx context.Context, group string, records []Message, how Delivery) error {
	t.joined = map[Target]bool{}
	if err := t.joinOffsets(ctx, group); err != nil {
		return err
	}
	w := publication{Publisher: t.publisher, Delivery: how, write: t.write, abandoned: new(bool)}
	return w.publish(ctx, records)
}

// write joins partitions and writes their batches. Requests go one after the other: a broker that is asked by two
// at a time whether a producer's partition is part of its transaction gives one of them up.
func (t *Transactions) write(ctx context.Context, batches map[Target][]Message, confirm confirmation) map[Target]error {
	var late []Target
	for to := range batches {
		if !t.joined[to] {
			late = append(late, to)
		}
	}
	if failures := t.join(ctx, late); failures != nil {
		for to := range batches {
			if failures[to] == nil { // nothing is written of a transaction that cannot be joined by all
				failures[to] = errNotAttempted
			}
		}
		return failures
	}
	return t.publisher.produce(ctx, &t.session, t.id, batches, confirm)
}

// join adds partitions to the transaction. It says why which of them were not, nil if all were.
func (t *Transactions) join(ctx context.Context, targets []Target) map[Target]error {
	if len(targets) == 0 {
		return nil
	}
	request := kmsg.NewPtrAddPartitionsToTxnRequest()
	request.Version, request.TransactionalID, request.ProducerID, request.ProducerEpoch = addPartitionsVersion, t.id, t.session.producer.ID, t.session.producer.Epoch
	byTopic := map[string][]int32{}
	for _, to := range targets {
		byTopic[to.Topic] = append(byTopic[to.Topic], int32(to.Partition))
	}
	for topic, partitions := range byTopic {
		request.Topics = append(request.Topics, kmsg.AddPartitionsToTxnRequestTopic{Topic: topic, Partitions: partitions})
	}
	var failures map[Target]error
	err := t.ask(ctx, func(ctx context.Context) error {
		response, err := ask[*kmsg.AddPartitionsToTxnResponse](ctx, t.publisher.broker, request, transactionCoordinatorOf(t.id))
		if err != nil {
			return err
		}
		failures = allFailed(targets, errors.New("the broker answered without the partition"))
		for _, topic := range response.Topics {
			for _, partition := range topic.Partitions {
				err = errors.Join(err, errorOf(partition.ErrorCode))
				failures[Target{topic.Topic, int(partition.Partition)}] = t.fenced("add a partition to the transaction", errorOf(partition.ErrorCode))
			}
		}
		return err
	})
	maps.DeleteFunc(failures, func(_ Target, err error) bool { return err == nil })
	switch {
	case failures == nil:
		return allFailed(targets, t.fenced("add partitions to the transaction", err))
	case len(failures) > 0:
		return failures
	}
	for _, to := range targets {
		t.joined[to] = true
	}
	return nil
}

// fenced says what an error means for the session.
func (t *Transactions) fenced(what string, err error) error {
	switch {
	case err == nil:
		return nil
	case isFenced(err):
		return fmt.Errorf("%s: %w: %w", what, ErrFenced, err)
	}
	return fmt.Errorf("%s: %w", what, err)
}

// joinOffsets adds a group's offsets to the transaction.
func (t *Transactions) joinOffsets(ctx context.Context, group string) error {
	request := kmsg.NewPtrAddOffsetsToTxnRequest()
	request.Version, request.TransactionalID, request.ProducerID, request.ProducerEpoch = addOffsetsVersion, t.id, t.session.producer.ID, t.session.producer.Epoch
	request.Group = group
	return t.ask(ctx, func(ctx context.Context) error {
		response, err := ask[*kmsg.AddOffsetsToTxnResponse](ctx, t.publisher.broker, request, transactionCoordinatorOf(t.id))
		if err == nil {
			err = errorOf(response.ErrorCode)
		}
		return t.fenced("add offsets to the transaction", err)
	})
}

// CommitOffset makes an offset part of the transaction. The group refuses it of a member of an earlier generation,
// whatever the producer's epoch.
func (t *Transactions) CommitOffset(ctx context.Context, g *Generation, at Target, c Commitment) error {
	request := kmsg.NewPtrTxnOffsetCommitRequest()
	request.Version, request.TransactionalID, request.ProducerID, request.ProducerEpoch = txnOffsetCommitVersion, t.id, t.session.producer.ID, t.session.producer.Epoch
	request.Group, request.Generation, request.MemberID, request.InstanceID = g.member.group, g.member.generation, g.member.id, g.member.instance
	part := kmsg.NewTxnOffsetCommitRequestTopicPartition()
	part.Partition, part.Offset, part.LeaderEpoch, part.Metadata = int32(at.Partition), c.Offset, c.Epoch, &c.Metadata
	request.Topics = []kmsg.TxnOffsetCommitRequestTopic{{Topic: at.Topic, Partitions: []kmsg.TxnOffsetCommitRequestTopicPartition{part}}}
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	response, err := ask[*kmsg.TxnOffsetCommitResponse](ctx, t.publisher.broker, request, coordinatorOf(g.member.group))
	answered := 0
	if err == nil {
		for _, topic := range response.Topics {
			for _, partition := range topic.Partitions {
				answered++
				err = errors.Join(err, errorOf(partition.ErrorCode))
			}
		}
	}
	if err == nil && answered != 1 {
		err = errors.New("the broker answered without the partition")
	}
	if isFenced(err) {
		g.lose(fmt.Errorf("%w: %w", ErrFenced, err))
	}
	return t.fenced("commit the offset in the transaction", err)
}

// End ends the transaction.
func (t *Transactions) End(ctx context.Context, commit bool) error {
	request := kmsg.NewPtrEndTxnRequest()
	request.Version, request.TransactionalID, request.ProducerID, request.ProducerEpoch = endTxnVersion, t.id, t.session.producer.ID, t.session.producer.Epoch
	request.Commit = commit
	return t.ask(ctx, func(ctx context.Context) error {
		response, err := ask[*kmsg.EndTxnResponse](ctx, t.publisher.broker, request, transactionCoordinatorOf(t.id))
		if err == nil {
			err = errorOf(response.ErrorCode)
		}
		return t.fenced("end the transaction", err)
	})
}

// Forget has the leaders of partitions looked up anew.
func (t *Transactions) Forget() { t.publisher.broker.forget() }
