package stream

import (
	"context"

	"go.opentelemetry.io/otel/trace"

	"tollgate/internal/kafka"
)

// delivery publishes what a batch led to and commits the batch.
type delivery interface {
	// open readies the partition, before its committed offset is read. It tries once.
	open(ctx context.Context) error
	// deliver returns when the records are acknowledged by Kafka. It fails with ErrPartitionLost, or when ctx ends.
	deliver(ctx context.Context, d *decided) error
}

// decided is a batch with what it led to.
type decided struct {
	batch   Batch
	records []kafka.Message
	next    int64 // offset below which everything is decided
	epoch   int32 // of the record before it, -1 if it is not known
	span    trace.Span
}

// atLeastOnce publishes first and commits afterwards, so that whatever happens in between is published again.
type atLeastOnce struct {
	assignment *assignment
	publisher  *kafka.Publisher
	how        kafka.Delivery
	commits    *committer
}

func (a *atLeastOnce) open(context.Context) error { return nil }

// deliver leaves what a worker has in hand that lost its partition to the next owner.
func (a *atLeastOnce) deliver(ctx context.Context, d *decided) error {
	if err := a.publisher.Publish(ctx, d.records, a.how); err != nil {
		return err
	}
	a.commits.note(a.assignment, a.assignment.commitment(d.next, d.epoch))
	return nil
}
