package realtest

import (
	"context"
	"fmt"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/segmentio/kafka-go"
	"golang.org/x/sync/errgroup"

	"tollgate/internal/proctest"
)

// KafkaCluster is a Kafka of several brokers, whose ids are 1, 2, … in their order. Its
// controller is a process of its own that no test harms: any broker can be killed, and all
// but one be frozen, and those that are left still learn who leads and who is in sync.
// (A quorum of the brokers themselves would lose its majority with two of three frozen.)
type KafkaCluster struct {
	Brokers    []*Kafka
	controller *Kafka
}

const (
	controllerID   = 100
	brokerHeap     = "512m"
	controllerHeap = "256m"
	// sessionMillis is after how long a broker that does not answer loses what it leads, and
	// lagMillis after how long a follower that does not fetch is no longer in sync. Kafka's own
	// are 9 s and 30 s. Shorter ones would be passed by a busy machine alone.
	sessionMillis = 3000
	lagMillis     = 3000
)

// StartKafkaCluster starts a Kafka of so many brokers, three at the least. Its topics have three copies
// and min.insync.replicas 2 if they do not say otherwise, those of offsets and of transactions too.
func StartKafkaCluster(t testing.TB, brokers int) *KafkaCluster {
	t.Helper()
	addrs := map[string]bool{}
	free := func() string {
		for {
			if addr := proctest.FreeAddr(t); !addrs[addr] {
				addrs[addr] = true
				return addr
			}
		}
	}
	controller := free()
	quorum := fmt.Sprintf("controller.quorum.voters=%d@%s", controllerID, controller)
	c := &KafkaCluster{controller: newKafka(t, controller, KafkaOptions{Heap: controllerHeap, Properties: func(addr string) string {
		return lines("process.roles=controller", fmt.Sprintf("node.id=%d", controllerID), quorum,
			"listeners=CONTROLLER://"+addr, "advertised.listeners=CONTROLLER://"+addr) + copiesProperties
	}})}
	for id := 1; id <= brokers; id++ {
		c.Brokers = append(c.Brokers, newKafka(t, free(), KafkaOptions{Heap: brokerHeap, Properties: func(addr string) string {
			return lines("process.roles=broker", fmt.Sprintf("node.id=%d", id), quorum,
				"listeners=PLAINTEXT://"+addr, "advertised.listeners=PLAINTEXT://"+addr, "broker.rack="+Rack(id)) + copiesProperties + brokerProperties
		}}))
	}
	all := append([]*Kafka{c.controller}, c.Brokers...)
	t.Cleanup(func() {
		for _, k := range all {
			k.discard()
		}
	})
	var starting errgroup.Group // a broker answers once the controller does
	for _, k := range all {
		starting.Go(k.start)
	}
	if err := starting.Wait(); err != nil {
		t.Fatal(err)
	}
	Until(t, "all brokers know each other", func() bool {
		return !slices.ContainsFunc(c.Brokers, func(k *Kafka) bool { return k.known() != brokers })
	})
	return c
}

// The controller must have these, too: since Kafka 4.1 its min.insync.replicas goes over the brokers' (KIP-966).
var copiesProperties = lines("default.replication.factor=3", "min.insync.replicas=2")

var brokerProperties = lines(
	"offsets.topic.replication.factor=3",
	"transaction.state.log.replication.factor=3", "transaction.state.log.min.isr=2",
	"share.coordinator.state.topic.replication.factor=3", "share.coordinator.state.topic.min.isr=2",
	fmt.Sprintf("broker.session.timeout.ms=%d", sessionMillis), "broker.heartbeat.interval.ms=500",
	fmt.Sprintf("replica.lag.time.max.ms=%d", lagMillis),
	// A leader changes when the test says so, and not back by itself.
	"auto.leader.rebalance.enable=false",
	// Consumers that say where they are may fetch from a follower there (KIP-392).
	"replica.selector.class=org.apache.kafka.common.replica.RackAwareReplicaSelector",
)

// Rack is where the broker of an id stands: each in one of its own.
func Rack(id int) string { return fmt.Sprintf("rack-%d", id) }

func lines(all ...string) string { return strings.Join(all, "\n") + "\n" }

// Addrs are where the brokers listen.
func (c *KafkaCluster) Addrs() []string {
	var all []string
	for _, k := range c.Brokers {
		all = append(all, k.Addr)
	}
	return all
}

// Leader waits until all brokers that answer agree on one of them as the leader of a
// partition, and returns it.
func (c *KafkaCluster) Leader(t testing.TB, topic string, partition int) (leader *Kafka) {
	t.Helper()
	Until(t, fmt.Sprintf("a leader of %s/%d", topic, partition), func() bool {
		leader = nil
		return c.allSay(topic, func(p kafka.Partition) bool {
			if p.ID != partition {
				return true
			}
			at := c.at(p.Leader)
			if at == nil || leader != nil && leader != at {
				return false
			}
			leader = at
			return at.answers.Load()
		}) && leader != nil
	})
	return leader
}

// Followers are the other brokers that have a copy of a partition, in sync or not.
func (c *KafkaCluster) Followers(t testing.TB, topic string, partition int) (followers []*Kafka) {
	t.Helper()
	leader := c.Leader(t, topic, partition)
	partitions, err := leader.partitions(topic)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range partitions {
		for _, replica := range p.Replicas {
			if at := c.at(replica); p.ID == partition && at != leader {
				followers = append(followers, at)
			}
		}
	}
	return followers
}

// AwaitWhole waits until every partition of some topics has a leader, and all its copies are in
// sync, as all brokers that answer say.
func (c *KafkaCluster) AwaitWhole(t testing.TB, topics ...string) {
	t.Helper()
	for _, topic := range topics {
		Until(t, "all copies of "+topic+" in sync", func() bool {
			return c.allSay(topic, func(p kafka.Partition) bool {
				return p.Leader.Port != 0 && len(p.Isr) == len(p.Replicas)
			})
		})
	}
}

// AwaitInSync waits until so many copies of a partition are in sync, its leader among them.
func (c *KafkaCluster) AwaitInSync(t testing.TB, topic string, partition, copies int) {
	t.Helper()
	Until(t, fmt.Sprintf("%d copies of %s/%d in sync", copies, topic, partition), func() bool {
		return c.allSay(topic, func(p kafka.Partition) bool { return p.ID != partition || len(p.Isr) == copies })
	})
}

// allSay asks every broker that answers about the partitions of a topic.
func (c *KafkaCluster) allSay(topic string, holds func(kafka.Partition) bool) bool {
	asked := 0
	for _, k := range c.Brokers {
		if !k.answers.Load() {
			continue
		}
		partitions, err := k.partitions(topic)
		if err != nil || len(partitions) == 0 {
			return false
		}
		for _, p := range partitions {
			if !holds(p) {
				return false
			}
		}
		asked++
	}
	return asked > 0
}

// at is the broker that Kafka means, nil for none.
func (c *KafkaCluster) at(broker kafka.Broker) *Kafka {
	if broker.ID < 1 || broker.ID > len(c.Brokers) {
		return nil
	}
	return c.Brokers[broker.ID-1]
}

const askTimeout = 3 * time.Second

// ask opens a connection to this very broker for a question, which may be about a partition.
func (k *Kafka) ask(topic string, partition int, question func(*kafka.Conn) error) error {
	ctx, cancel := context.WithTimeout(context.Background(), askTimeout)
	defer cancel()
	connection, err := (&net.Dialer{}).DialContext(ctx, "tcp", k.Addr)
	if err != nil {
		return err
	}
	defer connection.Close()
	if err := connection.SetDeadline(time.Now().Add(askTimeout)); err != nil {
		return err
	}
	return question(kafka.NewConn(connection, topic, partition))
}

// partitions are those of a topic, as this broker knows them.
func (k *Kafka) partitions(topic string) (partitions []kafka.Partition, err error) {
	err = k.ask("", 0, func(connection *kafka.Conn) error {
		partitions, err = connection.ReadPartitions(topic)
		return err
	})
	return partitions, err
}

// known is how many brokers this one knows.
func (k *Kafka) known() (brokers int) {
	_ = k.ask("", 0, func(connection *kafka.Conn) error {
		all, err := connection.Brokers()
		brokers = len(all)
		return err
	})
	return brokers
}
