package kafka

import (
	"context"
	"encoding/hex"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	kafkago "github.com/segmentio/kafka-go"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// TopicID names one life of a topic: a topic that is deleted and made again under its name gets another.
// It is zero if the cluster gives none (before Kafka 2.8, or while it is upgraded from there).
type TopicID [16]byte

// String is the id in hexadecimal, "" for none.
func (id TopicID) String() string {
	if id == (TopicID{}) {
		return ""
	}
	return hex.EncodeToString(id[:])
}

// ParseTopicID reads what String gives.
func ParseTopicID(text string) (id TopicID, err error) {
	raw, err := hex.DecodeString(text)
	if err != nil || len(raw) != len(id) {
		return id, fmt.Errorf("%q is no topic id", text)
	}
	copy(id[:], raw)
	return id, nil
}

// Layout is what partitions a topic has, by their ids: 0 and up.
type Layout struct {
	ID         TopicID
	Partitions []Partition
}

// Partition is who leads a partition.
type Partition struct {
	Leader int32 // id of a broker, -1 for none
	Epoch  int32 // of the leader
}

// Describe reads the layouts of topics from a broker. A topic that cannot be described has an error instead.
func (b Broker) Describe(ctx context.Context, topics []string) (map[string]Layout, map[string]error, error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	request := kmsg.NewPtrMetadataRequest()
	request.Version = metadataVersion
	request.Topics = make([]kmsg.MetadataRequestTopic, len(topics))
	for i := range topics {
		request.Topics[i].Topic = &topics[i]
	}
	response, err := ask[*kmsg.MetadataResponse](ctx, b, request, anyBroker)
	if err != nil {
		return nil, nil, fmt.Errorf("describe topics: %w", err)
	}
	layouts, failures := map[string]Layout{}, map[string]error{}
	for _, name := range topics {
		failures[name] = fmt.Errorf("topic %s: %w", name, kafkago.UnknownTopicOrPartition)
	}
	for i := range response.Topics {
		topic := &response.Topics[i]
		if topic.Topic == nil {
			continue
		}
		layout, err := layoutOf(topic)
		if err != nil {
			failures[*topic.Topic] = fmt.Errorf("topic %s: %w", *topic.Topic, err)
			continue
		}
		layouts[*topic.Topic] = layout
		delete(failures, *topic.Topic)
	}
	return layouts, failures, nil
}

func layoutOf(topic *kmsg.MetadataResponseTopic) (Layout, error) {
	if err := errorOf(topic.ErrorCode); err != nil {
		return Layout{}, err
	}
	layout := Layout{ID: topic.TopicID, Partitions: make([]Partition, len(topic.Partitions))}
	for _, partition := range topic.Partitions {
		if int(partition.Partition) >= len(layout.Partitions) {
			return Layout{}, fmt.Errorf("%w: partition %d of %d", errNotKafka, partition.Partition, len(topic.Partitions))
		}
		// A partition without a leader has an error, which passes.
		layout.Partitions[partition.Partition] = Partition{partition.Leader, partition.LeaderEpoch}
	}
	if len(layout.Partitions) == 0 {
		return Layout{}, kafkago.UnknownTopicOrPartition
	}
	return layout, nil
}

// Partitions lists the ids of a topic's partitions, 0 and up.
func (b Broker) Partitions(ctx context.Context, topic string) ([]int, error) {
	layouts, failures, err := b.Describe(ctx, []string{topic})
	if err == nil {
		err = failures[topic]
	}
	if err != nil {
		return nil, err
	}
	return ids(len(layouts[topic].Partitions)), nil
}

// MissingTopics lists those of the topics that do not exist, or that this user may not see.
func (b Broker) MissingTopics(ctx context.Context, topics []string) ([]string, error) {
	_, failures, err := b.Describe(ctx, topics)
	return slices.Sorted(maps.Keys(failures)), err
}

// layouts keeps layouts in mind for a while.
type layouts struct {
	mutex sync.Mutex
	known map[string]knownLayout
}

type knownLayout struct {
	Layout
	readAt time.Time
}

// layoutTTL is how long a layout is believed. A leader that has moved is told by errors, and forget.
const layoutTTL = 10 * time.Second

// layout returns the layout of a topic, asking a broker if it is not known.
func (b Broker) layout(ctx context.Context, topic string) (Layout, error) {
	l := b.layouts
	l.mutex.Lock()
	known, ok := l.known[topic]
	l.mutex.Unlock()
	if ok && time.Since(known.readAt) < layoutTTL {
		return known.Layout, nil
	}
	read, failures, err := b.Describe(ctx, []string{topic})
	if err == nil {
		err = failures[topic]
	}
	if err != nil {
		return Layout{}, err
	}
	l.mutex.Lock()
	defer l.mutex.Unlock()
	l.known[topic] = knownLayout{read[topic], time.Now()}
	return read[topic], nil
}

// leader returns who leads a partition.
func (b Broker) leader(ctx context.Context, at Target) (Partition, error) {
	layout, err := b.layout(ctx, at.Topic)
	switch {
	case err != nil:
		return Partition{}, err
	case at.Partition >= len(layout.Partitions):
		return Partition{}, fmt.Errorf("%s: %w", at, kafkago.UnknownTopicOrPartition)
	case layout.Partitions[at.Partition].Leader < 0:
		b.forget()
		return Partition{}, fmt.Errorf("%s: %w", at, kafkago.LeaderNotAvailable)
	}
	return layout.Partitions[at.Partition], nil
}

// forget has layouts read anew: a partition may have another leader.
func (b Broker) forget() {
	b.layouts.mutex.Lock()
	defer b.layouts.mutex.Unlock()
	clear(b.layouts.known)
}
