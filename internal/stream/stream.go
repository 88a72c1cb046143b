// Package stream keeps the guarantees: it consumes topics as a member of a group, one ordered flow per assigned
// partition, hands batches to a Decider, publishes what that makes of them, and commits what was published. It
// speaks to Kafka through package kafka, and knows nothing of balances.
package stream

import (
	"context"
	"time"

	"tollgate/internal/kafka"
)

// Batch is a run of records of one partition, in order.
type Batch struct {
	Cluster    string // id of the Kafka cluster
	Topic      string
	Partition  int
	Lifetime   string // names the time within which the group's committed offset only moves forward
	Generation int    // of the consumer group, within the lifetime
	Committed  int64  // offset up to which the partition is known to be committed
	Records    []kafka.Message
	// Next is the offset behind the batch. It may be further than behind the last record: there may be others
	// that were compacted away, or mark the ends of transactions.
	Next int64
	// Whole says that all records must be decided at once: none may be held back.
	Whole bool
	// Failed is told what keeps the batch from being decided, for those who ask why the partition stands still. May
	// be nil.
	Failed func(error)

	epoch int32 // of the leader that the last record came from
}

// Decision is what a decider made of a batch.
type Decision struct {
	// Records are to be published, in this order within a customer. A partition of kafka.AnyPartition leaves the
	// choice to the key.
	Records []kafka.Message
	// Next is the offset below which every record of the partition is decided: what may be committed. It is
	// Batch.Next unless records are held back.
	Next int64
}

// Decider decides the records of the partitions that are assigned.
type Decider interface {
	Partition(topic string, partition int) PartitionDecider
}

// PartitionDecider decides the records of a partition, for as long as it is assigned. Its methods are called one
// at a time.
type PartitionDecider interface {
	// Decide decides the records of a batch, one batch after the other. Records whose decision has to wait may be
	// held back, unless the batch is to be decided as a Whole: the decider keeps them, decides later ones of other
	// customers, and goes on with them at a later call. A batch without records asks for no more than that.
	//
	// It returns ErrPartitionLost if it learns that another worker has taken the partition over, and any other
	// error only when ctx ends; the batch is then neither published nor committed.
	Decide(ctx context.Context, batch Batch) (Decision, error)
	// Rest is called while nothing waits to be decided, with the offset up to which the partition is committed.
	// It should take no longer than a batch, and returns whether it wants to be called again before the next one.
	Rest(ctx context.Context, committed int64) (again bool)
}

// ErrPartitionLost says that another worker owns the partition by now.
var ErrPartitionLost = kafka.ErrFenced

// Observer is told what happens, for metrics. All methods may be called concurrently.
type Observer interface {
	// Assigned reports how many partitions the worker has from now on: -1 while it is no member of the group.
	Assigned(partitions int)
	// Lagging reports how far the committed offset of a partition is behind the end of its log, and how old the
	// first record is that is not committed; 0 if there is none.
	Lagging(topic string, partition int, records int64, oldest time.Duration)
	// Dropped reports that a partition is no longer this worker's.
	Dropped(topic string, partition int)
	// Skipped reports records that nobody will ever decide: they were deleted before they were read.
	Skipped(topic string, partition int, records int64)
	// InHand reports that the records that are being decided or published are so many more, or fewer.
	InHand(more int)
	// Settled reports that all that a batch led to is acknowledged.
	Settled(batch Batch)
	// Retried reports another try.
	Retried()
}

// assignment is a partition that this worker has in a generation.
type assignment struct {
	kafka.Target
	generation *kafka.Generation
	group      string
	topicID    kafka.TopicID
	mark       mark // of the lifetime, once it has begun
	progress   *progress
}

// commitment is what to commit once everything below an offset is published. The epoch is that of the record
// before it, -1 if it is not known.
func (a *assignment) commitment(offset int64, epoch int32) kafka.Commitment {
	return kafka.Commitment{Offset: offset, Epoch: epoch, Metadata: a.mark.metadata(offset)}
}
