package stream

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
)

// beginning is how a partition can begin.
type beginning struct {
	mark
	offset int64
	fresh  bool // a lifetime that is not committed yet
	found  bool // an offset was, by somebody else
	noted  Lifetime
}

// refusal says why a partition must not begin before an operator has seen to it.
type refusal struct{ reason string }

func (r *refusal) Error() string { return r.reason }

// begin readies the partition and returns the offset to read from. It tries until it succeeds,
// the partition is lost, the answer to a commit is lost or ctx ends.
func (f *flow) begin(ctx context.Context) (int64, error) {
	for try := 0; ; try++ {
		offset, err := f.tryToBegin(ctx)
		switch {
		case err == nil:
			f.consumer.blocked.remove(f.topic, f.partition)
			f.committed.Store(offset)
			return offset, nil
		case errors.Is(err, ErrPartitionLost), errors.Is(err, errUnanswered):
			return 0, err
		case ctx.Err() != nil:
			return 0, context.Cause(ctx)
		case isRefusal(err):
			if rarely(try) {
				f.logger.Error("the partition does not begin", "error", err, "try", try+1)
			}
			f.block(err)
		default:
			logRetry(f.logger, try, "cannot begin the partition, trying again", err)
			f.consumer.observer.Retried()
		}
		if !pause(ctx, try) {
			return 0, context.Cause(ctx)
		}
	}
}

func isRefusal(err error) bool {
	var r *refusal
	return errors.As(err, &r)
}

// tryToBegin commits a lifetime that begins before anything is read under it. Only a member of
// the group's present generation can, so that no two workers ever decide under two lifetimes.
func (f *flow) tryToBegin(ctx context.Context) (offset int64, err error) {
	if err := f.delivery.open(ctx); err != nil {
		return 0, err
	}
	b, err := f.consumer.survey(ctx, f.topic, f.partition, f.fresh)
	if err != nil {
		return 0, err
	}
	if b.fresh {
		commit := kafkaCommit(f.partition, b.offset, b.mark)
		if err := f.member.commit(ctx, commits{f.topic: {commit}}); err != nil {
			return 0, fmt.Errorf("commit where to begin: %w", err)
		}
		level := slog.LevelDebug // the usual first start
		if b.found {
			level = slog.LevelInfo
		}
		f.logger.Log(ctx, level, "a lifetime begins", "lifetime", b.id, "offset", b.offset, "offset_was_set", b.found,
			"before", b.noted.ID, "group_before", b.noted.Group)
	}
	lifetime := Lifetime{b.id, f.consumer.options.Group}
	noted, err := f.consumer.options.Lifetimes.Succeed(ctx, f.consumer.place(f.topic, f.partition), lifetime, b.before)
	if err != nil {
		return 0, err
	}
	if noted.ID != b.id {
		return 0, f.consumer.refuseOther(f.topic, b.offset, noted)
	}
	f.mark = b.mark
	return b.offset, nil
}

// survey finds out how a partition can begin, and changes nothing. It fails with a refusal where
// records that were decided already would be decided again. A lifetime that begins gets the id
// that is given.
func (c *Consumer) survey(ctx context.Context, topic string, partition int, fresh string) (b beginning, err error) {
	all, err := commitments(ctx, c.broker.Client, c.options.Group, topic, []int{partition})
	if err != nil {
		return b, err
	}
	if b.noted, err = c.options.Lifetimes.Lifetime(ctx, c.place(topic, partition)); err != nil {
		return b, err
	}
	committed := all[partition]
	b.offset = committed.offset
	if ours, ok := readMark(committed.metadata, committed.offset); ok {
		b.mark = ours
		if b.noted.ID != "" && b.noted.ID != b.id && b.noted.ID != b.before {
			return b, c.refuseOther(topic, b.offset, b.noted)
		}
		return b, nil
	}
	b.fresh, b.mark, b.found = true, mark{fresh, b.noted.ID}, b.offset >= 0
	switch {
	case b.found:
	case b.noted.ID != "":
		return b, c.refuseWithoutOffset(topic, b.noted)
	default:
		b.offset, err = FirstOffset(ctx, c.broker.Client, topic, partition)
	}
	return b, err
}

func (c *Consumer) place(topic string, partition int) Place {
	return Place{c.cluster, topic, partition}
}

func (c *Consumer) refuseWithoutOffset(topic string, noted Lifetime) error {
	return &refusal{fmt.Sprintf("group %q has no committed offset, but records of %s were decided by group %q before, and from the first offset on they would be decided again. %s",
		c.options.Group, topic, noted.Group, c.remedy(topic))}
}

func (c *Consumer) refuseOther(topic string, offset int64, noted Lifetime) error {
	return &refusal{fmt.Sprintf("group %q has committed offset %d, but records of %s were decided by group %q since, in another lifetime of its offsets (%s), and would be decided again. %s",
		c.options.Group, offset, topic, noted.Group, noted.ID, c.remedy(topic))}
}

// remedy is what an operator can do about a refusal.
func (c *Consumer) remedy(topic string) string {
	return fmt.Sprintf("Say where to go on: kafka-consumer-groups.sh --bootstrap-server ... --group %s --topic %s --reset-offsets (--to-offset N | --to-latest | --to-earliest) --execute; "+
		"--to-earliest decides all that the topic still has. Kafka takes it only while the group has no members: a worker with nothing else to do has left it, others must be stopped. See docs/operating.md, Groups and offsets",
		c.options.Group, topic)
}
