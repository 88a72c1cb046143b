// Package stream moves records: it consumes topics as a group, one ordered flow
// per assigned partition, hands batches to a Decider, publishes what that makes
// of them, and commits what was published. It knows nothing of balances.
package stream

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"time"

	"github.com/segmentio/kafka-go"
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
	// Whole has all records decided before Decide returns: what is published and what is committed must be the same records.
	Whole bool
}

// next is the offset behind the batch.
func (b *Batch) next() int64 { return b.Records[len(b.Records)-1].Offset + 1 }

// Decision is what a Decide led to.
type Decision struct {
	Records []kafka.Message // to publish, in order per customer
	// Next is the offset below which every record of the partition is decided: what may be committed. It is the end of the
	// batch if nothing is held back.
	Next int64
}

// Decider decides the records of the partitions that are assigned.
type Decider interface {
	Partition(topic string, partition int) PartitionDecider
}

// PartitionDecider decides the records of a partition, for as long as it is assigned. Its
// methods are called one at a time.
type PartitionDecider interface {
	// Decide decides the records of a batch, one batch after the other. Records for which the
	// decision must wait (their Redis shard does not answer) may be held back: the decider
	// keeps them, answers later ones of other customers, and goes on with them at a later
	// call. A batch without records asks to go on with what is held back. A partition of -1
	// in a record to publish leaves the choice to its key.
	//
	// It returns ErrPartitionLost where it learns that another worker has taken the
	// partition over, and any other error only when ctx ends; the batch is then
	// neither published nor committed.
	Decide(ctx context.Context, batch Batch) (Decision, error)
	// Rest is called while nothing waits to be decided, with the offset up to which the
	// partition is committed. It should take no longer than a batch, and returns whether
	// it wants to be called again before the next one.
	Rest(ctx context.Context, committed int64) (again bool)
}

// ErrPartitionLost says that another worker owns the partition by now.
var ErrPartitionLost = errors.New("the partition has another owner")

// Observer is told what happens, for metrics. All methods may be called
// concurrently.
type Observer interface {
	// Fetched reports how many records a partition is behind its end.
	Fetched(topic string, partition int, lag int64)
	// Dropped reports that a partition is no longer this worker's.
	Dropped(topic string, partition int)
	// Published reports records acknowledged and how long that took.
	Published(topic string, records int, took time.Duration)
	// Settled reports that all that a batch led to is acknowledged.
	Settled(batch Batch)
	// Retried reports another try.
	Retried()
}

// Broker is the Kafka cluster, as kafka-go's clients need it.
type Broker struct {
	Addresses []string
	Client    *kafka.Client
	Dialer    *kafka.Dialer // for the consumer group, which brings its own connections
}

// ClusterID is the id that a Kafka cluster was given when it was made.
func ClusterID(ctx context.Context, client *kafka.Client) (string, error) {
	metadata, err := client.Metadata(ctx, &kafka.MetadataRequest{Topics: []string{}})
	if err != nil {
		return "", fmt.Errorf("read the cluster's id: %w", err)
	}
	return metadata.ClusterID, nil
}

const (
	firstPause = 50 * time.Millisecond
	longPause  = 5 * time.Second
)

// pause waits before try n (from 0), longer each time and never quite as long as
// the others wait. It returns false where ctx ended.
func pause(ctx context.Context, try int) bool {
	wait := min(firstPause<<min(try, 10), longPause)
	wait = wait/2 + rand.N(wait/2+1)
	select {
	case <-ctx.Done():
		return false
	case <-time.After(wait):
		return true
	}
}

// logRetry tells of the first failure and then, ever less often, that it goes on.
func logRetry(logger *slog.Logger, try int, message string, err error, args ...any) {
	if rarely(try) {
		logger.Warn(message, append(args, "error", err, "try", try+1)...)
	}
}

// rarely picks tries ever less often: 0, 1, 2, 4, 8, …
func rarely(try int) bool { return try&(try-1) == 0 }
