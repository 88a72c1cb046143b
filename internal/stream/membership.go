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

	mutex     sync.Mutex
	confirmed time.Time
}

func newMembership(client *kafka.Client, generation *kafka.Generation, sessionTimeout time.Duration) *membership {
	return &membership{client: client, generation: generation, trust: sessionTimeout / 2, confirmed: time.Now()}
}

// confirm fails with ErrPartitionLost where the generation's partitions have gone to
// others, and with another error where the group does not answer.
func (m *membership) confirm(ctx context.Context) error {
	m.mutex.Lock()
	defer m.mutex.Unlock()
	if time.Since(m.confirmed) < m.trust {
		return nil
	}
	asked := time.Now()
	response, err := m.client.Heartbeat(ctx, &kafka.HeartbeatRequest{
		GroupID: m.generation.GroupID, GenerationID: m.generation.ID, MemberID: m.generation.MemberID,
	})
	if err == nil {
		err = response.Error
	}
	switch {
	case isFenced(err):
		return fmt.Errorf("%w: %w", ErrPartitionLost, err)
	case err != nil && !errors.Is(err, kafka.RebalanceInProgress): // the group waits for us to let go
		return fmt.Errorf("heartbeat: %w", err)
	}
	m.confirmed = asked
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
