package kafka

import (
	"context"
	"errors"
	"fmt"

	kafkago "github.com/segmentio/kafka-go"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// Timestamps that ask for an offset of a partition's own (ListOffsets).
const (
	lastOffset  = -1
	firstOffset = -2
)

// FirstOffset is the oldest offset that a partition still has.
func (b Broker) FirstOffset(ctx context.Context, topic string, partition int) (int64, error) {
	return b.offset(ctx, topic, partition, firstOffset)
}

// LastOffset is the offset that a partition's next record will have.
func (b Broker) LastOffset(ctx context.Context, topic string, partition int) (int64, error) {
	return b.offset(ctx, topic, partition, lastOffset)
}

func (b Broker) offset(ctx context.Context, topic string, partition int, which int64) (int64, error) {
	offsets, failures, err := b.listOffsets(ctx, map[string][]int{topic: {partition}}, which, readUncommitted)
	at := Target{topic, partition}
	if err == nil {
		err = failures[at]
	}
	return offsets[at], err
}

// StableOffset is up to where a partition can be read by those who read only what is committed: before the first record of
// a transaction that is open.
func (b Broker) StableOffset(ctx context.Context, at Target) (int64, error) {
	offsets, failures, err := b.listOffsets(ctx, map[string][]int{at.Topic: {at.Partition}}, lastOffset, readCommitted)
	if err == nil {
		err = failures[at]
	}
	return offsets[at], err
}

// LastOffsets are the offsets that the next records of partitions will have. A partition for which there is
// no answer is left out.
func (b Broker) LastOffsets(ctx context.Context, partitions map[string][]int) (map[Target]int64, error) {
	offsets, _, err := b.listOffsets(ctx, partitions, lastOffset, readUncommitted)
	return offsets, err
}

// Target is a partition of a topic.
type Target struct {
	Topic     string
	Partition int
}

func (t Target) String() string { return fmt.Sprintf("%s/%d", t.Topic, t.Partition) }

// listOffsets asks the leaders of partitions.
func (b Broker) listOffsets(ctx context.Context, partitions map[string][]int, which int64, isolation int8) (map[Target]int64, map[Target]error, error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	topics := make([]string, 0, len(partitions))
	for topic := range partitions {
		topics = append(topics, topic)
	}
	known, missing, err := b.Describe(ctx, topics)
	if err != nil {
		return nil, nil, err
	}
	offsets, failures := map[Target]int64{}, map[Target]error{}
	byLeader := map[int32]*kmsg.ListOffsetsRequest{}
	for topic, ids := range partitions {
		for _, id := range ids {
			at := Target{topic, id}
			switch {
			case missing[topic] != nil:
				failures[at] = missing[topic]
				continue
			case id >= len(known[topic].Partitions):
				failures[at] = fmt.Errorf("offsets of %s: %w", at, kafkago.UnknownTopicOrPartition)
				continue
			}
			failures[at] = fmt.Errorf("offsets of %s: %w", at, kafkago.LeaderNotAvailable)
			leader := known[topic].Partitions[id]
			request := byLeader[leader.Leader]
			if request == nil {
				request = kmsg.NewPtrListOffsetsRequest()
				request.Version, request.ReplicaID, request.IsolationLevel = listOffsetsVersion, -1, isolation
				byLeader[leader.Leader] = request
			}
			part := kmsg.NewListOffsetsRequestTopicPartition()
			part.Partition, part.Timestamp = int32(id), which
			request.Topics = append(request.Topics, kmsg.ListOffsetsRequestTopic{Topic: topic, Partitions: []kmsg.ListOffsetsRequestTopicPartition{part}})
		}
	}
	for leader, request := range byLeader {
		if leader < 0 {
			continue
		}
		response, err := ask[*kmsg.ListOffsetsResponse](ctx, b, request, brokerWithID(leader))
		if err != nil {
			return offsets, failures, fmt.Errorf("offsets: %w", err)
		}
		for _, topic := range response.Topics {
			for _, partition := range topic.Partitions {
				at := Target{topic.Topic, int(partition.Partition)}
				if err := errorOf(partition.ErrorCode); err != nil {
					failures[at] = fmt.Errorf("offsets of %s: %w", at, err)
					continue
				}
				offsets[at] = partition.Offset
				delete(failures, at)
			}
		}
	}
	return offsets, failures, nil
}

// Commitment is what a group has committed for a partition: the offset from which it goes on.
type Commitment struct {
	Offset   int64 // -1 for none
	Epoch    int32 // of the leader that the record before came from, -1 if it is not known
	Metadata string
}

// Commitments are what a group has committed of a topic's partitions. The group need not have members. They
// are stable: an offset that is part of an open transaction is waited for by the error UnstableOffsetCommit.
func (b Broker) Commitments(ctx context.Context, group, topic string, partitions []int) (map[int]Commitment, error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	asked := kmsg.NewOffsetFetchRequestTopic()
	asked.Topic = topic
	committed := make(map[int]Commitment, len(partitions))
	for _, partition := range partitions {
		asked.Partitions = append(asked.Partitions, int32(partition))
		committed[partition] = Commitment{Offset: -1, Epoch: -1}
	}
	request := kmsg.NewPtrOffsetFetchRequest()
	request.Version, request.Group, request.RequireStable = offsetFetchVersion, group, true
	request.Topics = []kmsg.OffsetFetchRequestTopic{asked}
	response, err := ask[*kmsg.OffsetFetchResponse](ctx, b, request, coordinatorOf(group))
	if err == nil {
		err = errorOf(response.ErrorCode)
	}
	if errors.Is(err, kafkago.GroupIdNotFound) {
		return committed, nil
	}
	if err != nil {
		return nil, fmt.Errorf("committed offsets of %s: %w", group, err)
	}
	for _, t := range response.Topics {
		for _, p := range t.Partitions {
			if err := errorOf(p.ErrorCode); err != nil {
				return nil, fmt.Errorf("committed offsets of %s: %w", group, err)
			}
			c := Commitment{Offset: p.Offset, Epoch: p.LeaderEpoch}
			if p.Metadata != nil {
				c.Metadata = *p.Metadata
			}
			committed[int(p.Partition)] = c
		}
	}
	return committed, nil
}

// Committed are the offsets that a group has committed of a topic's partitions, -1 for none.
func (b Broker) Committed(ctx context.Context, group, topic string, partitions []int) (map[int]int64, error) {
	commitments, err := b.Commitments(ctx, group, topic, partitions)
	offsets := make(map[int]int64, len(commitments))
	for partition, committed := range commitments {
		offsets[partition] = committed.Offset
	}
	return offsets, err
}

// Commit commits an offset for a group without members.
func (b Broker) Commit(ctx context.Context, group, topic string, partition int, offset int64) error {
	none := member{group: group, generation: -1}
	return none.commit(ctx, b, map[Target]Commitment{{topic, partition}: {Offset: offset, Epoch: -1}})
}
