package stream

import (
	"context"
	"errors"
	"fmt"
	"log/slog"

	kafkago "github.com/segmentio/kafka-go"

	"tollgate/internal/kafka"
	"tollgate/internal/retry"
)

// start is where a partition is read from: an offset, and the epoch of the leader that the record before came from,
// -1 if it is not known.
type start struct {
	offset int64
	epoch  int32
}

// beginning is how a partition can begin.
type beginning struct {
	mark
	start
	topicID kafka.TopicID
	fresh   bool // a lifetime that is not committed yet
	found   bool // an offset was, by somebody else
	noted   Lifetime
}

// refusal says why a partition must not go on before an operator has seen to it.
type refusal struct {
	reason string
	// offset is the one that the operator has to change, -1 if survey finds out by itself.
	offset int64
}

func (r *refusal) Error() string { return r.reason }

// begin readies the partition and returns where to read from. It tries until it succeeds, the partition is lost, the
// answer to a commit is lost or ctx ends.
func (f *flow) begin(ctx context.Context) (from start, err error) {
	policy := patience
	policy.Failed = func(err error, before int) {
		f.assignment.progress.fail(err)
		if refused := asRefusal(err); refused != nil {
			if retry.Rarely(before) {
				f.logger.Error("the partition does not begin", "error", err, "try", before+1)
			}
			f.consumer.block(f.assignment, refused)
			return
		}
		retry.Log(f.logger, "cannot begin the partition, trying again", err, before)
		f.consumer.observer.Retried()
	}
	err = retry.Do(ctx, policy, func() error {
		var err error
		from, err = f.tryToBegin(ctx)
		if errors.Is(err, ErrPartitionLost) || errors.Is(err, kafka.ErrUnanswered) {
			return retry.Permanent(err)
		}
		return err
	})
	if err == nil {
		f.truncated = nil
		f.consumer.blocked.remove(f.assignment.Target)
		f.assignment.progress.commit(from.offset)
	}
	return from, err
}

// asRefusal is the refusal in an error, nil if it is another one.
func asRefusal(err error) *refusal {
	var r *refusal
	errors.As(err, &r)
	return r
}

// tryToBegin commits a lifetime that begins before anything is read under it. Only a member of the group's present
// generation can, so that no two workers ever decide under two lifetimes.
func (f *flow) tryToBegin(ctx context.Context) (from start, err error) {
	if err := f.delivery.open(ctx); err != nil {
		return from, err
	}
	a := f.assignment
	b, err := f.consumer.survey(ctx, a.Target, newLifetimeID(), f.truncated)
	if err != nil {
		return from, err
	}
	if b.fresh {
		fresh := assignment{mark: b.mark}
		offsets := map[kafka.Target]kafka.Commitment{a.Target: fresh.commitment(b.offset, b.epoch)}
		if err := a.generation.Commit(ctx, offsets); err != nil {
			return from, fmt.Errorf("commit where to begin: %w", err)
		}
		level := slog.LevelDebug // the usual first start
		if b.found {
			level = slog.LevelInfo
		}
		f.logger.Log(ctx, level, "a lifetime begins", "lifetime", b.id, "offset", b.offset, "offset_was_set", b.found,
			"before", b.noted.ID, "group_before", b.noted.Group)
	}
	lifetime := Lifetime{b.id, a.group}
	noted, err := f.consumer.options.Lifetimes.Succeed(ctx, f.consumer.place(a.Target, b.topicID), lifetime, b.before)
	if err != nil {
		return from, err
	}
	if noted.ID != b.id {
		return from, f.consumer.refuseOther(a.Topic, b.offset, noted)
	}
	a.mark, a.topicID = b.mark, b.topicID
	return b.start, nil
}

// survey finds out how a partition can begin, and changes nothing. It fails with a refusal if records that were
// decided already would be decided again. A lifetime that begins gets the id that is given. truncated is what was found
// out when the partition was read, nil if nothing was.
func (c *Consumer) survey(ctx context.Context, at kafka.Target, fresh string, truncated *kafka.Truncated) (b beginning, err error) {
	layouts, failures, err := c.broker.Describe(ctx, []string{at.Topic})
	if err == nil {
		err = failures[at.Topic]
	}
	if err != nil {
		return b, err
	}
	b.topicID = layouts[at.Topic].ID
	all, err := c.broker.Commitments(ctx, c.options.Group, at.Topic, []int{at.Partition})
	if err != nil {
		return b, err
	}
	if b.noted, err = c.options.Lifetimes.Lifetime(ctx, c.place(at, b.topicID)); err != nil {
		return b, err
	}
	committed := all[at.Partition]
	ours, isOurs := readMark(committed.Metadata, committed.Offset)
	if isOurs && ours.isOfAnother(b.topicID) { // a topic that was deleted; the group goes on in the one made since
		c.logger.Warn("the topic is another one than the group has read; it is read from its beginning", "topic", at.Topic, "partition", at.Partition)
		committed, isOurs = kafka.Commitment{Offset: -1, Epoch: -1}, false
	}
	b.start = start{committed.Offset, committed.Epoch}
	if isOurs {
		b.mark = ours
		if b.noted.ID != "" && b.noted.ID != b.id && b.noted.ID != b.before {
			return b, c.refuseOther(at.Topic, b.offset, b.noted)
		}
		return b, c.goOnIfTruncated(ctx, at, &b, fresh, truncated)
	}
	b.begins(fresh)
	b.found = b.offset >= 0
	switch {
	case b.found:
		return b, c.goOnIfTruncated(ctx, at, &b, fresh, nil)
	case b.noted.ID != "":
		return b, c.refuseWithoutOffset(at.Topic, b.noted)
	default:
		b.offset, err = c.broker.FirstOffset(ctx, at.Topic, at.Partition)
		b.epoch = -1
	}
	return b, err
}

// begins makes it a lifetime that begins.
func (b *beginning) begins(fresh string) {
	b.fresh, b.mark = true, mark{id: fresh, before: b.noted.ID, topicID: b.topicID}
}

// goOnIfTruncated refuses to go on in a log that no longer is the one that was read, unless the operator has said that
// the worker shall: then it goes on at the end of what is left, and another lifetime begins, since offsets that were
// decided come again with other records.
func (c *Consumer) goOnIfTruncated(ctx context.Context, at kafka.Target, b *beginning, fresh string, found *kafka.Truncated) error {
	err := c.broker.Probe(ctx, at, b.offset, b.epoch)
	var log *kafka.Truncated
	if err == nil && found != nil && found.End < b.offset {
		err = found
	}
	if !errors.As(err, &log) {
		if errors.Is(err, kafkago.OffsetOutOfRange) { // below the first one: fetching says how many are gone
			return nil
		}
		return err
	}
	if c.options.OnTruncation != TruncationGoOn {
		return c.refuseTruncated(log)
	}
	end, err := c.broker.LastOffset(ctx, at.Topic, at.Partition)
	if err != nil {
		return err
	}
	c.logger.Error("the log was truncated; going on at its end, as --on-truncation says", "topic", at.Topic, "partition", at.Partition,
		"committed_offset", b.offset, "log_is_the_same_up_to", log.End, "end", end)
	b.begins(fresh)
	b.start, b.found = start{end, -1}, true
	return nil
}

func (c *Consumer) place(at kafka.Target, id kafka.TopicID) Place {
	return Place{c.cluster, at.Topic, id.String(), at.Partition}
}

func (c *Consumer) refuseWithoutOffset(topic string, noted Lifetime) error {
	return &refusal{fmt.Sprintf("group %q has no committed offset, but records of %s were decided by group %q before, and from the first offset on they would be decided again. %s",
		c.options.Group, topic, noted.Group, c.remedy(topic)), -1}
}

func (c *Consumer) refuseOther(topic string, offset int64, noted Lifetime) error {
	return &refusal{fmt.Sprintf("group %q has committed offset %d, but records of %s were decided by group %q since, in another lifetime of its offsets (%s), and would be decided again. %s",
		c.options.Group, offset, topic, noted.Group, noted.ID, c.remedy(topic)), -1}
}

func (c *Consumer) refuseTruncated(log *kafka.Truncated) error {
	return &refusal{fmt.Sprintf("%v. Kafka has lost acknowledged records (an unclean leader election, or a disk). "+
		"Records that clients sent since may lie below offset %d: worker run --on-truncation=end goes on at the end of the log; what lies before that is not decided. Or: %s",
		log, log.Offset, c.remedy(log.Topic)), -1}
}

func (c *Consumer) refuseUnreadable(at kafka.Target, offset int64, err error) *refusal {
	return &refusal{fmt.Sprintf("%s cannot be read on from offset %d: %v. Set the offset behind the batch to pass over it. %s",
		at, offset, err, c.remedy(at.Topic)), offset}
}

// remedy is what an operator can do about a refusal.
func (c *Consumer) remedy(topic string) string {
	return fmt.Sprintf("Say where to go on: kafka-consumer-groups.sh --bootstrap-server ... --group %s --topic %s --reset-offsets (--to-offset N | --to-latest | --to-earliest) --execute; "+
		"--to-earliest decides all that the topic still has. Kafka takes it only while the group has no members: a worker with nothing else to do has left it, others must be stopped. See docs/operating.md, Groups and offsets",
		c.options.Group, topic)
}
