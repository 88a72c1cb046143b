package stream

import (
	"context"
	"errors"
)

// delivery publishes what a batch led to and commits the batch.
type delivery interface {
	// open readies the partition, before its committed offset is read. It tries once.
	open(ctx context.Context) error
	// deliver returns when the records are acknowledged by Kafka. It fails with
	// ErrPartitionLost, or when ctx ends.
	deliver(ctx context.Context, d decided) error
}

// atLeastOnce publishes first and commits afterwards, so that whatever happens in
// between is published again.
type atLeastOnce struct {
	*flow
	commits *committer
}

func (a *atLeastOnce) open(context.Context) error { return nil }

// deliver leaves what a worker has in hand that lost its partition to the next owner.
func (a *atLeastOnce) deliver(ctx context.Context, d decided) error {
	if err := a.consumer.publisher.publishConfirmed(ctx, d.out, a.consumer.options.Refused, a.confirm); err != nil {
		return err
	}
	a.commits.note(a.flow, d.next)
	return nil
}

// confirm waits until the group confirms that the partition is ours. It fails with
// ErrPartitionLost where it is not, or when ctx ends.
func (f *flow) confirm(ctx context.Context) error {
	return f.insist(ctx, "cannot confirm the membership, trying again", func() error { return f.member.confirm(ctx) })
}

// insist tries until it succeeds, the partition is lost or ctx ends.
func (f *flow) insist(ctx context.Context, complaint string, try func() error) error {
	for n := 0; ; n++ {
		err := try()
		if err == nil || errors.Is(err, ErrPartitionLost) {
			return err
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		logRetry(f.logger, n, complaint, err)
		f.consumer.observer.Retried()
		if !pause(ctx, n) {
			return context.Cause(ctx)
		}
	}
}
