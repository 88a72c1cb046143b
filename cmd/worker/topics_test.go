package main

import (
	"encoding/json"
	"maps"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	kafkago "github.com/segmentio/kafka-go"
	"github.com/twmb/franz-go/pkg/kfake"

	"tollgate/internal/kafka"
	"tollgate/internal/proctest"
	"tollgate/internal/servertest"
	"tollgate/internal/wire"
)

// topicNames are names of topics that do not exist, with the flags for them.
func topicNames() (names wire.Topics, flags []string) {
	name := servertest.Unique("topics")
	names = wire.Topics{
		Checks: name + ".checks", CheckResults: name + ".check-results", UsageEvents: name + ".usage-events",
		Commands: name + ".commands", CommandResults: name + ".command-results", DeadLetters: name + ".dead-letters",
	}
	return names, []string{
		"--topic-checks", names.Checks, "--topic-check-results", names.CheckResults, "--topic-usage-events", names.UsageEvents,
		"--topic-commands", names.Commands, "--topic-command-results", names.CommandResults, "--topic-dead-letters", names.DeadLetters,
	}
}

// createTopics runs `worker topics create`.
func createTopics(t *testing.T, broker kafka.Broker, flags ...string) proctest.Output {
	t.Helper()
	args := []string{"topics", "create", "--kafka-brokers", strings.Join(broker.Addresses, ","), "--partitions", "2"}
	return proctest.Run(t, []string{"NO_COLOR=1"}, "worker", slices.Concat(args, flags)...)
}

// topicConfig is the configuration that a topic has.
func topicConfig(t *testing.T, broker kafka.Broker, topic string) map[string]string {
	t.Helper()
	response, err := broker.Client.DescribeConfigs(t.Context(), &kafkago.DescribeConfigsRequest{
		Resources: []kafkago.DescribeConfigRequestResource{{ResourceType: kafkago.ResourceTypeTopic, ResourceName: topic}},
	})
	if err != nil || len(response.Resources) != 1 || response.Resources[0].Error != nil {
		t.Fatal(err, response)
	}
	configs := map[string]string{}
	for _, entry := range response.Resources[0].ConfigEntries {
		configs[entry.ConfigName] = entry.ConfigValue
	}
	return configs
}

func setTopicConfig(t *testing.T, broker kafka.Broker, topic string, configs map[string]string) {
	t.Helper()
	resource := kafkago.IncrementalAlterConfigsRequestResource{ResourceType: kafkago.ResourceTypeTopic, ResourceName: topic}
	for name, value := range configs {
		resource.Configs = append(resource.Configs, kafkago.IncrementalAlterConfigsRequestConfig{Name: name, Value: value, ConfigOperation: kafkago.ConfigOperationSet})
	}
	response, err := broker.Client.IncrementalAlterConfigs(t.Context(), &kafkago.IncrementalAlterConfigsRequest{
		Resources: []kafkago.IncrementalAlterConfigsRequestResource{resource},
	})
	if err != nil || response.Resources[0].Error != nil {
		t.Fatal(err, response)
	}
}

// threeBrokers is a Kafka of three brokers, in this process.
func threeBrokers(t *testing.T) kafka.Broker {
	t.Helper()
	cluster, err := kfake.NewCluster(kfake.NumBrokers(3), kfake.BrokerConfigs(map[string]string{"group.min.session.timeout.ms": "1000"}))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cluster.Close)
	return servertest.BrokerAt(t, cluster.ListenAddrs()...)
}

func TestEachTopicIsCreatedForWhatItIsFor(t *testing.T) {
	broker := threeBrokers(t)
	names, flags := topicNames()
	out := createTopics(t, broker, flags...)
	if out.Code != 0 || strings.Count(out.Stdout, "created") != 6 || strings.Contains(out.Stdout, "Not as it should be") {
		t.Fatalf("exit code %d\n%s%s", out.Code, out.Stdout, out.Stderr)
	}
	days := func(n int64) string { return strconv.FormatInt(n*24*time.Hour.Milliseconds(), 10) }
	for topic, want := range map[string]map[string]string{
		names.Checks:         {"retention.ms": days(7), "max.message.bytes": "1048588"},
		names.Commands:       {"retention.ms": days(7), "max.message.bytes": "1048588"},
		names.CheckResults:   {"retention.ms": days(3)},
		names.CommandResults: {"retention.ms": days(3)},
		names.UsageEvents:    {"retention.ms": days(90)},
		names.DeadLetters:    {"retention.ms": days(30), "max.message.bytes": "2097176"},
	} {
		maps.Copy(want, map[string]string{"cleanup.policy": "delete", "min.insync.replicas": "2", "retention.bytes": "-1"})
		is := topicConfig(t, broker, topic)
		for name, value := range want {
			if is[name] != value {
				t.Errorf("%s: %s is %q, not %s", topic, name, is[name], value)
			}
		}
	}
	if out := createTopics(t, broker, flags...); out.Code != 0 || strings.Count(out.Stdout, "exists, as it should be") != 6 {
		t.Errorf("once more: exit code %d\n%s%s", out.Code, out.Stdout, out.Stderr)
	}
}

func TestMinInsyncReplicasGoesByTheCopiesUnlessItIsGiven(t *testing.T) {
	broker := threeBrokers(t)
	for _, c := range []struct {
		name  string
		flags []string
		want  string
	}{
		{"one copy", []string{"--replication-factor", "1"}, "1"},
		{"two copies", []string{"--replication-factor", "2"}, "1"},
		{"three copies", nil, "2"},
		{"given", []string{"--min-insync-replicas", "3"}, "3"},
	} {
		t.Run(c.name, func(t *testing.T) {
			names, flags := topicNames()
			if out := createTopics(t, broker, slices.Concat(flags, c.flags)...); out.Code != 0 {
				t.Fatalf("exit code %d\n%s%s", out.Code, out.Stdout, out.Stderr)
			}
			if got := topicConfig(t, broker, names.Checks)["min.insync.replicas"]; got != c.want {
				t.Errorf("got %s, want %s", got, c.want)
			}
		})
	}
	if out := createTopics(t, broker, "--replication-factor", "2", "--min-insync-replicas", "3"); out.Code != 2 || !strings.Contains(out.Stderr, "--min-insync-replicas must be") {
		t.Errorf("more than copies: exit code %d\n%s", out.Code, out.Stderr)
	}
}

func TestHowAnExistingTopicDiffersIsSaidWithTheCommandThatChangesIt(t *testing.T) {
	broker := threeBrokers(t)
	names, flags := topicNames()
	createTopics(t, broker, flags...)
	setTopicConfig(t, broker, names.Checks, map[string]string{"cleanup.policy": "compact", "retention.ms": "3600000", "min.insync.replicas": "1"})
	setTopicConfig(t, broker, names.Commands, map[string]string{"min.insync.replicas": "1"})

	text := createTopics(t, broker, flags...)
	configure := "kafka-configs.sh --bootstrap-server " + strings.Join(broker.Addresses, ",") + " --alter --entity-type topics --entity-name "
	for _, want := range []string{
		configure + names.Checks + " --add-config cleanup.policy=delete,retention.ms=604800000,min.insync.replicas=2",
		configure + names.Commands + " --add-config min.insync.replicas=2",
		"3600000 (1h0m0s)", "604800000 (7 days)", "compaction keeps one record",
	} {
		if !strings.Contains(text.Stdout, want) {
			t.Errorf("no %q in\n%s", want, text.Stdout)
		}
	}
	if text.Code != 0 {
		t.Errorf("exit code %d\n%s", text.Code, text.Stderr)
	}

	var shown []shownTopic
	out := createTopics(t, broker, append(flags, "-o", "json")...)
	if err := json.Unmarshal([]byte(out.Stdout), &shown); err != nil || len(shown) != 6 {
		t.Fatalf("%v\n%s", err, out.Stdout)
	}
	for _, topic := range shown {
		want := map[string]int{names.Checks: 3, names.Commands: 1}[topic.Topic]
		if len(topic.Differs) != want || (len(topic.Change) > 0) != (want > 0) {
			t.Errorf("%s: got %+v", topic.Topic, topic)
		}
	}
}

// With fewer copies than min.insync.replicas Kafka takes no record: whoever follows the
// commands in their order must not get there.
func TestCopiesComeBeforeMinInsyncReplicas(t *testing.T) {
	broker := threeBrokers(t)
	_, flags := topicNames()
	createTopics(t, broker, append(flags, "--replication-factor", "1")...)
	out := createTopics(t, broker, flags...)
	copies, then := strings.Index(out.Stdout, "# kafka-reassign-partitions.sh"), strings.Index(out.Stdout, "# and only then:")
	if copies < 0 || then < copies || strings.Index(out.Stdout, "--add-config min.insync.replicas=2") < then {
		t.Errorf("got\n%s", out.Stdout)
	}
}

func TestMoreCopiesThanBrokersAreRefusedWithWhatToDo(t *testing.T) {
	broker := servertest.Broker(t)
	_, flags := topicNames()
	out := createTopics(t, broker, flags...)
	if out.Code != 1 || !strings.Contains(out.Stderr, "has 1 broker\n") || !strings.Contains(out.Stderr, "--replication-factor 1") {
		t.Errorf("exit code %d\n%s%s", out.Code, out.Stdout, out.Stderr)
	}
	one := append(flags, "--replication-factor", "1")
	if out := createTopics(t, broker, one...); out.Code != 0 {
		t.Fatalf("exit code %d\n%s", out.Code, out.Stderr)
	}
	if out := createTopics(t, broker, flags...); out.Code != 1 || !strings.Contains(out.Stderr, "--replication-factor 1") {
		t.Errorf("they exist with one copy: exit code %d\n%s%s", out.Code, out.Stdout, out.Stderr)
	}
}

func TestAWorkerWarnsOfTopicsThatCanLoseRecords(t *testing.T) {
	broker := threeBrokers(t)
	d := proctest.NewDeploymentOn(t, broker, "--redis-addrs", servertest.RedisAddr(t))
	replies := servertest.Unique("replies")
	servertest.CreateTopics(t, broker, proctest.Partitions, replies)
	for _, topic := range append(d.Topics.All(), replies) {
		setTopicConfig(t, broker, topic, map[string]string{"min.insync.replicas": "2"})
	}
	worker, _ := d.StartReady(t, "--reply-topics", replies)
	if output := worker.Output(); strings.Contains(output, "level=WARN") && strings.Contains(output, "min.insync.replicas") || strings.Contains(output, "cleanup.policy") {
		t.Errorf("nothing can be lost, and it says\n%s", output)
	}
	worker.Stop(t)

	setTopicConfig(t, broker, d.Topics.Checks, map[string]string{"min.insync.replicas": "1"})
	setTopicConfig(t, broker, d.Topics.CheckResults, map[string]string{"min.insync.replicas": "1", "cleanup.policy": "compact,delete"})
	setTopicConfig(t, broker, replies, map[string]string{"cleanup.policy": "compact"}) // somebody else's affair
	worker, _ = d.StartReady(t, "--reply-topics", replies)
	output := worker.Output()
	for _, want := range []string{
		"min.insync.replicas is 1 for topics of this worker, should be 2", `topics="` + d.Topics.Checks + ", " + d.Topics.CheckResults + `"`,
		"cleanup.policy is compact,delete", "--entity-name " + d.Topics.CheckResults + " --add-config cleanup.policy=delete",
	} {
		if !strings.Contains(output, want) {
			t.Errorf("no %q in\n%s", want, output)
		}
	}
	if strings.Contains(output, replies) {
		t.Errorf("a reply topic may be compacted:\n%s", output)
	}
}
