package stream

import (
	"context"
	"errors"
	"fmt"

	"github.com/segmentio/kafka-go"
)

// FirstOffset is the oldest offset that a partition still has.
func FirstOffset(ctx context.Context, client *kafka.Client, topic string, partition int) (int64, error) {
	offsets, err := offsetsOf(ctx, client, topic, partition, kafka.FirstOffsetOf(partition))
	return offsets.FirstOffset, err
}

// LastOffset is the offset that a partition's next record will have.
func LastOffset(ctx context.Context, client *kafka.Client, topic string, partition int) (int64, error) {
	offsets, err := offsetsOf(ctx, client, topic, partition, kafka.LastOffsetOf(partition))
	return offsets.LastOffset, err
}

func offsetsOf(ctx context.Context, client *kafka.Client, topic string, partition int, which kafka.OffsetRequest) (kafka.PartitionOffsets, error) {
	ctx, cancel := context.WithTimeout(ctx, fetchGrace)
	defer cancel()
	response, err := client.ListOffsets(ctx, &kafka.ListOffsetsRequest{Topics: map[string][]kafka.OffsetRequest{topic: {which}}})
	if err == nil {
		err = kafka.UnknownTopicOrPartition
		for _, p := range response.Topics[topic] {
			if p.Partition == partition {
				if p.Error == nil {
					return p, nil
				}
				err = p.Error
			}
		}
	}
	return kafka.PartitionOffsets{}, fmt.Errorf("offsets of %s/%d: %w", topic, partition, err)
}

// Committed are the offsets of a topic's partitions that a group has committed, -1 where
// it has none. The group need not have members.
func Committed(ctx context.Context, client *kafka.Client, group, topic string, partitions []int) (map[int]int64, error) {
	all, err := commitments(ctx, client, group, topic, partitions)
	offsets := make(map[int]int64, len(all))
	for partition, committed := range all {
		offsets[partition] = committed.offset
	}
	return offsets, err
}

// commitment is what a group has committed of a partition; offset is -1 where that is nothing.
type commitment struct {
	offset   int64
	metadata string
}

func commitments(ctx context.Context, client *kafka.Client, group, topic string, partitions []int) (map[int]commitment, error) {
	ctx, cancel := context.WithTimeout(ctx, fetchGrace)
	defer cancel()
	response, err := client.OffsetFetch(ctx, &kafka.OffsetFetchRequest{GroupID: group, Topics: map[string][]int{topic: partitions}})
	if err == nil {
		err = response.Error
	}
	committed := make(map[int]commitment, len(partitions))
	for _, partition := range partitions {
		committed[partition] = commitment{offset: -1}
	}
	if errors.Is(err, kafka.GroupIdNotFound) {
		return committed, nil
	}
	if err != nil {
		return nil, fmt.Errorf("committed offsets of %s: %w", group, err)
	}
	for _, p := range response.Topics[topic] {
		if p.Error != nil {
			return nil, fmt.Errorf("committed offsets of %s: %w", group, p.Error)
		}
		committed[p.Partition] = commitment{p.CommittedOffset, p.Metadata}
	}
	return committed, nil
}

// Commit commits an offset for a group without members.
func Commit(ctx context.Context, client *kafka.Client, group, topic string, partition int, offset int64) error {
	response, err := client.OffsetCommit(ctx, &kafka.OffsetCommitRequest{
		GroupID: group, GenerationID: -1, Topics: map[string][]kafka.OffsetCommit{topic: {{Partition: partition, Offset: offset}}},
	})
	if err == nil && len(response.Topics[topic]) == 1 {
		err = response.Topics[topic][0].Error
	}
	if err != nil {
		return fmt.Errorf("commit of %s: %w", group, err)
	}
	return nil
}
