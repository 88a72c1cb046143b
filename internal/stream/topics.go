package stream

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/segmentio/kafka-go"
)

// Topic is a topic as it should be.
type Topic struct {
	Name              string
	Partitions        int
	ReplicationFactor int
	Retention         time.Duration
}

const retentionConfig = "retention.ms"

// TopicState is what CreateTopics found or did.
type TopicState struct {
	Topic
	Created bool
	Differs []string // how an existing topic differs from what it should be
}

// CreateTopics creates those topics that do not exist, and says how those that
// do differ.
func CreateTopics(ctx context.Context, client *kafka.Client, topics []Topic) ([]TopicState, error) {
	request := &kafka.CreateTopicsRequest{}
	for _, topic := range topics {
		request.Topics = append(request.Topics, kafka.TopicConfig{
			Topic: topic.Name, NumPartitions: topic.Partitions, ReplicationFactor: topic.ReplicationFactor,
			ConfigEntries: []kafka.ConfigEntry{
				{ConfigName: retentionConfig, ConfigValue: fmt.Sprint(topic.Retention.Milliseconds())},
			},
		})
	}
	response, err := client.CreateTopics(ctx, request)
	if err != nil {
		return nil, fmt.Errorf("create topics: %w", err)
	}
	states := make([]TopicState, len(topics))
	for i, topic := range topics {
		states[i].Topic = topic
		switch err := response.Errors[topic.Name]; {
		case err == nil:
			states[i].Created = true
		case errors.Is(err, kafka.TopicAlreadyExists):
			if states[i].Differs, err = differences(ctx, client, topic); err != nil {
				return nil, err
			}
		default:
			return nil, fmt.Errorf("create topic %s: %w", topic.Name, err)
		}
	}
	return states, nil
}

func differences(ctx context.Context, client *kafka.Client, want Topic) ([]string, error) {
	var differs []string
	ids, err := Partitions(ctx, client, want.Name)
	if err != nil {
		return nil, err
	}
	if len(ids) != want.Partitions {
		differs = append(differs, fmt.Sprintf("it has %d partitions, not %d", len(ids), want.Partitions))
	}
	response, err := client.DescribeConfigs(ctx, &kafka.DescribeConfigsRequest{Resources: []kafka.DescribeConfigRequestResource{{
		ResourceType: kafka.ResourceTypeTopic, ResourceName: want.Name, ConfigNames: []string{retentionConfig},
	}}})
	if err != nil {
		return nil, fmt.Errorf("describe topic %s: %w", want.Name, err)
	}
	for _, resource := range response.Resources {
		if resource.Error != nil {
			return nil, fmt.Errorf("describe topic %s: %w", want.Name, resource.Error)
		}
		for _, entry := range resource.ConfigEntries {
			if wanted := fmt.Sprint(want.Retention.Milliseconds()); entry.ConfigName == retentionConfig && entry.ConfigValue != wanted {
				differs = append(differs, fmt.Sprintf("%s is %s, not %s", retentionConfig, entry.ConfigValue, wanted))
			}
		}
	}
	return differs, nil
}

// MissingTopics lists those of the topics that do not exist.
func MissingTopics(ctx context.Context, client *kafka.Client, topics []string) ([]string, error) {
	metadata, err := client.Metadata(ctx, &kafka.MetadataRequest{Topics: topics})
	if err != nil {
		return nil, fmt.Errorf("read topics: %w", err)
	}
	var missing []string
	for _, topic := range topics {
		exists := slices.ContainsFunc(metadata.Topics, func(t kafka.Topic) bool {
			return t.Name == topic && t.Error == nil && len(t.Partitions) > 0
		})
		if !exists {
			missing = append(missing, topic)
		}
	}
	return missing, nil
}

// Reachable says whether a broker answers; metadata would come from the client's
// cache.
func Reachable(ctx context.Context, broker Broker) error {
	if _, err := broker.Client.ApiVersions(ctx, &kafka.ApiVersionsRequest{}); err != nil {
		return fmt.Errorf("kafka at %s: %w", strings.Join(broker.Addresses, ","), err)
	}
	return nil
}
