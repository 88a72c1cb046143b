package stream

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/segmentio/kafka-go"
)

// membership knows whether a generation is still that of its group. kafka-go's own
// heartbeat tells, too, but later: a process that was stopped for longer than the
// session (a frozen machine, SIGSTOP) goes on where it was, with partitions that
// others have by then.
type membership struct {
	client     *kafka.Client
	generation *kafka.Generation
	// trust is how long a confirmation lasts. The group gives a silent member up
	// after the session timeout, and kafka-go's heartbeats are a third of that apart:
	// who was given up was silent for two thirds of it at least.
	trust time.Duration

	mutex     sync.Mutex // never held while the group is asked
	confirmed time.Time
}

func newMembership(client *kafka.Client, generation *kafka.Generation, sessionTimeout time.Duration) *membership {
	return &membership{client: client, generation: generation, trust: sessionTimeout / 2, confirmed: time.Now()}
}

// isTrusted says whether the last confirmation still holds. Go's monotonic clock stands still while the machine is
// suspended, and the wall clock may be set back; neither may make a confirmation last longer.
func (m *membership) isTrusted(now time.Time) bool {
	m.mutex.Lock()
	defer m.mutex.Unlock()
	onTheWall := now.Round(0).Sub(m.confirmed.Round(0))
	return now.Sub(m.confirmed) < m.trust && onTheWall >= 0 && onTheWall < m.trust
}

const confirmTimeout = 5 * time.Second

// confirm fails with ErrPartitionLost if the generation's partitions have gone to
// others, and with another error if the group does not answer.
func (m *membership) confirm(ctx context.Context) error {
	asked := time.Now()
	if m.isTrusted(asked) {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, confirmTimeout)
	defer cancel()
	response, err := m.client.Heartbeat(ctx, &kafka.HeartbeatRequest{
		GroupID: m.generation.GroupID, GenerationID: m.generation.ID, MemberID: m.generation.MemberID,
	})
	if err == nil {
		err = heartbeatError(response)
	}
	switch {
	case isFenced(err):
		return fmt.Errorf("%w: %w", ErrPartitionLost, err)
	case err != nil && !errors.Is(err, kafka.RebalanceInProgress): // the group waits for us to let go
		return fmt.Errorf("heartbeat: %w", err)
	}
	m.mutex.Lock()
	defer m.mutex.Unlock()
	m.confirmed = asked
	return nil
}

// heartbeatError is the error that a group answered a heartbeat with, nil for none.
//
// kafka-go reads the response's two fields in the wrong order (its pull request 1371, not in 0.4.51). Kafka sends throttle_time_ms,
// 4 bytes, and error_code, 2 bytes; kafka-go takes the first 2 bytes for the error and the other 4 for the throttle. So
// error 25 arrives as a throttle of 25 ms and no error. A test tells when this can go.
func heartbeatError(response *kafka.HeartbeatResponse) error {
	if code := kafka.Error(int16(response.Throttle.Milliseconds())); code != 0 {
		return code
	}
	return nil
}

// commits are offsets to commit, by topic.
type commits map[string][]kafka.OffsetCommit

func kafkaCommit(partition int, offset int64, m mark) kafka.OffsetCommit {
	return kafka.OffsetCommit{Partition: partition, Offset: offset, Metadata: m.metadata(offset)}
}

// errUnanswered says that nobody knows whether an offset was committed. What was sent may still
// take effect, after a commit that is made later: no member of this generation may make one.
var errUnanswered = errors.New("the answer to a commit was lost")

const commitTimeout = 5 * time.Second

// commit commits as the member that it is. It fails with ErrPartitionLost where the generation
// is over, with errUnanswered, or with another error where the group refuses for now.
func (m *membership) commit(ctx context.Context, offsets commits) error {
	ctx, cancel := context.WithTimeout(ctx, commitTimeout)
	defer cancel()
	response, err := m.client.OffsetCommit(ctx, &kafka.OffsetCommitRequest{
		GroupID: m.generation.GroupID, GenerationID: int(m.generation.ID), MemberID: m.generation.MemberID, Topics: offsets,
	})
	if err != nil {
		if code := kafka.Error(0); !errors.As(err, &code) {
			return fmt.Errorf("%w: %w", errUnanswered, err)
		}
		return err
	}
	answered := 0
	for _, partitions := range response.Topics {
		answered += len(partitions)
		for _, partition := range partitions {
			err = errors.Join(err, partition.Error)
		}
	}
	for _, partitions := range offsets {
		answered -= len(partitions)
	}
	switch {
	case isFenced(err):
		return fmt.Errorf("%w: %w", ErrPartitionLost, err)
	case err == nil && answered != 0:
		return errUnanswered
	}
	return err
}
