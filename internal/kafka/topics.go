package kafka

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	kafkago "github.com/segmentio/kafka-go"

	"tollgate/internal/retry"
)

// Topic is a topic as it should be. MinInsyncReplicas and MaxMessageBytes are the brokers'
// defaults if they are 0.
type Topic struct {
	Name              string
	Partitions        int
	ReplicationFactor int
	Retention         time.Duration
	RetentionWhy      string // the reason for Retention, for whoever reads how a topic differs
	MinInsyncReplicas int
	MaxMessageBytes   int
}

// Names of what a topic has. The first two are no configuration of Kafka's but are changed in
// other ways.
const (
	PartitionCount    = "partitions"
	ReplicationFactor = "replication.factor"

	MinInsyncReplicas = "min.insync.replicas"
	CleanupPolicy     = "cleanup.policy"
	RetentionMillis   = "retention.ms"
	retentionBytes    = "retention.bytes"
	maxMessageBytes   = "max.message.bytes"
	uncleanElection   = "unclean.leader.election.enable"
)

// config is one entry of a topic's configuration as it should be.
type config struct{ name, value, why string }

func (t Topic) configs() []config {
	all := []config{
		{CleanupPolicy, "delete", compactionWhy},
		{RetentionMillis, strconv.FormatInt(t.Retention.Milliseconds(), 10), t.RetentionWhy},
		// A cluster may have a bound for all topics. Records would go before their time.
		{retentionBytes, "-1", "a bound on bytes throws records away before their time"},
	}
	if t.MinInsyncReplicas > 0 {
		all = append(all, config{MinInsyncReplicas, strconv.Itoa(t.MinInsyncReplicas), lossWhy})
	}
	if t.MaxMessageBytes > 0 {
		all = append(all, config{maxMessageBytes, strconv.Itoa(t.MaxMessageBytes), "a dead letter must have room for the whole request, and for the headers that say why"})
	}
	return all
}

// Difference is one thing of a topic that is not as it should be.
type Difference struct {
	Config   string `json:"config"` // as Kafka names it, or PartitionCount or ReplicationFactor
	Is       string `json:"is"`
	ShouldBe string `json:"should_be"`
	Why      string `json:"why"`
}

// TopicState is a topic as it is.
type TopicState struct {
	Name              string
	Partitions        int
	ReplicationFactor int // the lowest of its partitions
	// configs has what the broker tells, nothing if unread says why not.
	configs map[string]string
	unread  error
}

// CreatedTopic is what CreateTopics found or did.
type CreatedTopic struct {
	Topic
	Created bool
	Differs []Difference // how it differs from what it should be; also if it was created with what can lose records
	Unread  error        // why its configuration could not be read, nil if it could
}

// TooFewBrokersError says that a topic cannot have as many copies as it should.
type TooFewBrokersError struct {
	Topic   Topic
	Brokers int // that there are, 0 if that is not known
}

func (e *TooFewBrokersError) Error() string {
	brokers := "fewer brokers"
	switch {
	case e.Brokers == 1:
		brokers = "1 broker"
	case e.Brokers > 1:
		brokers = fmt.Sprintf("%d brokers", e.Brokers)
	}
	return fmt.Sprintf("topic %s cannot have %d copies of each partition: each copy needs a broker of its own, and the cluster has %s",
		e.Topic.Name, e.Topic.ReplicationFactor, brokers)
}

// CreateTopics creates those topics that do not exist, and says how all of them differ from
// what they should be. It fails with a TooFewBrokersError if there are fewer brokers than a
// topic should have copies.
func (b Broker) CreateTopics(ctx context.Context, topics []Topic) ([]CreatedTopic, error) {
	request := &kafkago.CreateTopicsRequest{}
	for _, topic := range topics {
		entry := kafkago.TopicConfig{Topic: topic.Name, NumPartitions: topic.Partitions, ReplicationFactor: topic.ReplicationFactor}
		for _, c := range topic.configs() {
			entry.ConfigEntries = append(entry.ConfigEntries, kafkago.ConfigEntry{ConfigName: c.name, ConfigValue: c.value})
		}
		request.Topics = append(request.Topics, entry)
	}
	response, err := b.Client.CreateTopics(ctx, request)
	if err != nil {
		return nil, fmt.Errorf("create topics: %w", err)
	}
	created := make([]CreatedTopic, len(topics))
	for i, topic := range topics {
		created[i].Topic = topic
		switch err := response.Errors[topic.Name]; {
		case err == nil:
			created[i].Created = true
		case errors.Is(err, kafkago.TopicAlreadyExists):
		case errors.Is(err, kafkago.InvalidReplicationFactor):
			return nil, &TooFewBrokersError{topic, b.brokerCount(ctx)}
		default:
			return nil, fmt.Errorf("create topic %s: %w", topic.Name, err)
		}
	}
	return created, b.compare(ctx, created)
}

// brokerCount is how many brokers the cluster has, 0 if it does not say.
func (b Broker) brokerCount(ctx context.Context) int {
	metadata, err := b.Client.Metadata(ctx, &kafkago.MetadataRequest{Topics: []string{}})
	if err != nil {
		return 0
	}
	return len(metadata.Brokers)
}

// compare holds topics as they are against what they should be.
func (b Broker) compare(ctx context.Context, created []CreatedTopic) error {
	states, brokers, err := b.describeCreated(ctx, created)
	if err != nil {
		return err
	}
	for i, state := range states {
		if wanted := created[i].ReplicationFactor; state.ReplicationFactor < wanted && brokers < wanted {
			return &TooFewBrokersError{created[i].Topic, brokers}
		}
		created[i].Unread = state.unread
		created[i].Differs = created[i].differences(state)
		for _, risk := range state.Risks(brokers) {
			known := func(d Difference) bool { return d.Config == risk.Config }
			if !slices.ContainsFunc(created[i].Differs, known) {
				created[i].Differs = append(created[i].Differs, risk)
			}
		}
	}
	return nil
}

// describeTries bounds the waiting for brokers that have not heard of a new topic yet.
const describeTries = 10

func (b Broker) describeCreated(ctx context.Context, created []CreatedTopic) (states []TopicState, brokers int, err error) {
	names := make([]string, len(created))
	for i, topic := range created {
		names[i] = topic.Name
	}
	for try := 0; ; try++ {
		states, brokers, err = b.DescribeTopics(ctx, names)
		unknown := func(s TopicState) bool {
			return s.Partitions == 0 || errors.Is(s.unread, kafkago.UnknownTopicOrPartition)
		}
		if err != nil || !slices.ContainsFunc(states, unknown) {
			return states, brokers, err
		}
		retry.Pause(ctx, patience, try)
		if try == describeTries || ctx.Err() != nil {
			return nil, 0, errors.New("topics were created, but the brokers do not show them yet; run it again")
		}
	}
}

// DescribeTopics reads topics as they are, and how many brokers the cluster has. That a
// configuration cannot be read is no error: TopicState.Unread says it.
func (b Broker) DescribeTopics(ctx context.Context, names []string) (states []TopicState, brokers int, err error) {
	metadata, err := b.Client.Metadata(ctx, &kafkago.MetadataRequest{Topics: names})
	if err != nil {
		return nil, 0, fmt.Errorf("read topics: %w", err)
	}
	states = make([]TopicState, len(names))
	for i, name := range names {
		states[i].Name = name
		for _, topic := range metadata.Topics {
			if topic.Name == name {
				states[i].Partitions = len(topic.Partitions)
				states[i].ReplicationFactor = lowestReplicationFactor(topic)
			}
		}
	}
	b.readConfigs(ctx, states)
	return states, len(metadata.Brokers), nil
}

func lowestReplicationFactor(topic kafkago.Topic) int {
	lowest := 0
	for _, partition := range topic.Partitions {
		if n := len(partition.Replicas); lowest == 0 || n < lowest {
			lowest = n
		}
	}
	return lowest
}

// readConfigs reads those entries of the topics' configurations that are compared.
func (b Broker) readConfigs(ctx context.Context, states []TopicState) {
	request := &kafkago.DescribeConfigsRequest{}
	for i := range states {
		states[i].unread = errors.New("the broker answered without it")
		request.Resources = append(request.Resources, kafkago.DescribeConfigRequestResource{
			ResourceType: kafkago.ResourceTypeTopic, ResourceName: states[i].Name,
			ConfigNames: []string{MinInsyncReplicas, CleanupPolicy, RetentionMillis, retentionBytes, maxMessageBytes, uncleanElection},
		})
	}
	response, err := b.Client.DescribeConfigs(ctx, request)
	if err != nil {
		for i := range states {
			states[i].unread = err
		}
		return
	}
	for _, resource := range response.Resources {
		for i := range states {
			if states[i].Name != resource.ResourceName {
				continue
			}
			states[i].unread, states[i].configs = resource.Error, map[string]string{}
			for _, entry := range resource.ConfigEntries {
				states[i].configs[entry.ConfigName] = entry.ConfigValue
			}
		}
	}
}

// Unread is why the configuration could not be read, mostly that this user may not
// (DescribeConfigs). It is nil if it could.
func (s TopicState) Unread() error { return s.unread }

// differences are what is not as it should be; what is safer than that is none. An entry that the broker does not tell of
// (not all are Apache Kafka) counts as right.
func (t Topic) differences(is TopicState) []Difference {
	var all []Difference
	if is.Partitions != t.Partitions {
		all = append(all, Difference{PartitionCount, strconv.Itoa(is.Partitions), strconv.Itoa(t.Partitions), "requests and results should have the same number"})
	}
	if is.ReplicationFactor < t.ReplicationFactor { // more of them is safer than what was asked for
		why := lossWhy
		if is.ReplicationFactor > 1 {
			why = "with fewer copies, a broker that fails stops writes or leaves records on one broker"
		}
		all = append(all, Difference{ReplicationFactor, strconv.Itoa(is.ReplicationFactor), strconv.Itoa(t.ReplicationFactor), why})
	}
	for _, c := range t.configs() {
		value, told := is.configs[c.name]
		if !told || value == c.value {
			continue
		}
		if c.name == MinInsyncReplicas {
			n, _ := strconv.Atoi(value)
			switch {
			case n < t.MinInsyncReplicas:
				c.why = lossWhy
			case n >= is.ReplicationFactor:
				c.why = "no record can be written while a broker is away"
			default: // safer than what was asked for
				continue
			}
		}
		all = append(all, Difference{c.name, value, c.value, c.why})
	}
	return all
}

const (
	compactionWhy = "compaction keeps one record of a customer and throws the others away, and refuses records without a key"
	lossWhy       = "an acknowledged record is lost if the one broker that has it fails"
)

// Risks are what can lose a topic's records, or stop them from being written, on a cluster of
// so many brokers. One broker has nothing to copy records to: then a single copy is no risk.
func (s TopicState) Risks(brokers int) []Difference {
	risks := s.DurabilityRisks(brokers)
	if policy := s.configs[CleanupPolicy]; strings.Contains(policy, "compact") {
		risks = append(risks, Difference{CleanupPolicy, policy, "delete", compactionWhy})
	}
	return risks
}

// DurabilityRisks are the Risks but for compaction, which somebody else's topic may well have.
func (s TopicState) DurabilityRisks(brokers int) []Difference {
	var risks []Difference
	if s.ReplicationFactor == 1 && brokers > 1 {
		risks = append(risks, Difference{ReplicationFactor, "1", strconv.Itoa(min(brokers, 3)), lossWhy})
	}
	if text, told := s.configs[MinInsyncReplicas]; told && s.ReplicationFactor > 0 {
		switch n, err := strconv.Atoi(text); {
		case err != nil: // then it is no number to judge
		case n > s.ReplicationFactor:
			risks = append(risks, Difference{MinInsyncReplicas, text, strconv.Itoa(min(s.ReplicationFactor, 2)), "no record can be written: there are fewer copies"})
		case n < 2 && s.ReplicationFactor > 1:
			risks = append(risks, Difference{MinInsyncReplicas, text, "2", lossWhy})
		}
	}
	if s.configs[uncleanElection] == "true" {
		risks = append(risks, Difference{
			uncleanElection, "true", "false", "a broker that lacks acknowledged records may become the leader: they are lost, and its log ends before what was committed",
		})
	}
	return risks
}
