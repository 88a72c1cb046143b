package kafka

import (
	"context"
	"errors"
	"fmt"
	"time"

	kafkago "github.com/segmentio/kafka-go"
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
func (b Broker) CreateTopics(ctx context.Context, topics []Topic) ([]TopicState, error) {
	request := &kafkago.CreateTopicsRequest{}
	for _, topic := range topics {
		request.Topics = append(request.Topics, kafkago.TopicConfig{
			Topic: topic.Name, NumPartitions: topic.Partitions, ReplicationFactor: topic.ReplicationFactor,
			ConfigEntries: []kafkago.ConfigEntry{
				{ConfigName: retentionConfig, ConfigValue: fmt.Sprint(topic.Retention.Milliseconds())},
			},
		})
	}
	response, err := b.Client.CreateTopics(ctx, request)
	if err != nil {
		return nil, fmt.Errorf("create topics: %w", err)
	}
	states := make([]TopicState, len(topics))
	for i, topic := range topics {
		states[i].Topic = topic
		switch err := response.Errors[topic.Name]; {
		case err == nil:
			states[i].Created = true
		case errors.Is(err, kafkago.TopicAlreadyExists):
			if states[i].Differs, err = b.differences(ctx, topic); err != nil {
				return nil, err
			}
		default:
			return nil, fmt.Errorf("create topic %s: %w", topic.Name, err)
		}
	}
	return states, nil
}

func (b Broker) differences(ctx context.Context, want Topic) ([]string, error) {
	var differs []string
	ids, err := b.Partitions(ctx, want.Name)
	if err != nil {
		return nil, err
	}
	if len(ids) != want.Partitions {
		differs = append(differs, fmt.Sprintf("it has %d partitions, not %d", len(ids), want.Partitions))
	}
	response, err := b.Client.DescribeConfigs(ctx, &kafkago.DescribeConfigsRequest{Resources: []kafkago.DescribeConfigRequestResource{{
		ResourceType: kafkago.ResourceTypeTopic, ResourceName: want.Name, ConfigNames: []string{retentionConfig},
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
