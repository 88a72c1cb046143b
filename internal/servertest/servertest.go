// Package servertest gives tests a Kafka and a Redis: those that
// TOLLGATE_TEST_KAFKA and TOLLGATE_TEST_REDIS point at (host:port), else the
// embedded pair. The same tests run on both.
package servertest

import (
	"context"
	"crypto/rand"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	kafkago "github.com/segmentio/kafka-go"
	"go.uber.org/goleak"

	"tollgate/internal/embedded"
	"tollgate/internal/kafka"
)

// Environment variables that point tests at servers.
const (
	EnvKafka = "TOLLGATE_TEST_KAFKA"
	EnvRedis = "TOLLGATE_TEST_REDIS"
)

var servers struct {
	sync.Mutex
	kafka, redis   string
	broker         *embedded.Broker
	embeddedRedis  *embedded.Redis
	announcedKafka bool
	announcedRedis bool
}

// Main runs the tests of a package, stops the servers that they made start, and fails
// where a goroutine is left. It is for TestMain.
func Main(m *testing.M) int {
	code := m.Run()
	stop()
	if code != 0 {
		return code
	}
	// kafka-go keeps a connection until the answer to a fetch that was given up has come.
	for deadline := time.Now().Add(longPoll); ; {
		err := goleak.Find()
		if err == nil {
			return 0
		}
		if time.Now().After(deadline) {
			fmt.Println("goroutines are left:", err)
			return 1
		}
	}
}

const longPoll = 15 * time.Second

func stop() {
	servers.Lock()
	defer servers.Unlock()
	if servers.broker != nil {
		servers.broker.Close()
	}
	if servers.embeddedRedis != nil {
		servers.embeddedRedis.Close()
	}
}

// KafkaAddr is the address of a Kafka broker.
func KafkaAddr(t testing.TB) string {
	t.Helper()
	servers.Lock()
	defer servers.Unlock()
	if servers.kafka == "" {
		servers.kafka = os.Getenv(EnvKafka)
	}
	if servers.kafka == "" {
		broker, err := embedded.StartBroker("127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		servers.broker, servers.kafka = broker, broker.Addr
	}
	if !servers.announcedKafka {
		servers.announcedKafka = true
		announce("Kafka", servers.kafka, servers.broker != nil)
	}
	return servers.kafka
}

// RedisAddr is the address of a Redis.
func RedisAddr(t testing.TB) string {
	t.Helper()
	servers.Lock()
	defer servers.Unlock()
	if servers.redis == "" {
		servers.redis = os.Getenv(EnvRedis)
	}
	if servers.redis == "" {
		server, err := embedded.StartMiniRedis("127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		servers.embeddedRedis, servers.redis = server, server.Addr
	}
	if !servers.announcedRedis {
		servers.announcedRedis = true
		announce("Redis", servers.redis, servers.embeddedRedis != nil)
	}
	return servers.redis
}

func announce(what, addr string, isEmbedded bool) {
	kind := "real"
	if isEmbedded {
		kind = "embedded"
	}
	fmt.Printf("servers: %s %s at %s\n", kind, what, addr)
}

// Redis is a client of the tests' Redis.
func Redis(t testing.TB) *redis.Client {
	t.Helper()
	client := redis.NewClient(&redis.Options{Addr: RedisAddr(t)})
	t.Cleanup(func() { _ = client.Close() })
	return client
}

// Broker is the tests' Kafka.
func Broker(t testing.TB) kafka.Broker {
	t.Helper()
	return BrokerAt(t, KafkaAddr(t))
}

// BrokerAt is the Kafka at an address, or at those of several brokers.
func BrokerAt(t testing.TB, addrs ...string) kafka.Broker {
	t.Helper()
	transport := &kafkago.Transport{MetadataTTL: time.Second}
	t.Cleanup(transport.CloseIdleConnections)
	return kafka.NewBroker(addrs, transport)
}

// Unique is a name that no other test uses, now or in another run.
func Unique(name string) string { return name + "-" + rand.Text()[:10] }

// Silent logs nothing.
func Silent() *slog.Logger { return slog.New(slog.DiscardHandler) }

// Logger logs for the test, only where it runs verbosely.
func Logger(t testing.TB) *slog.Logger {
	if !testing.Verbose() {
		return Silent()
	}
	return slog.New(slog.NewTextHandler(t.Output(), nil))
}

// CreateTopics creates topics with so many partitions, and with three copies of each if there are
// brokers enough. It returns when every partition has a leader that answers for it.
func CreateTopics(t testing.TB, broker kafka.Broker, partitions int, names ...string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), startTimeout)
	defer cancel()
	copies := 1
	if len(broker.Addresses) >= 3 {
		copies = 3
	}
	var topics []kafka.Topic
	for _, name := range names {
		topics = append(topics, kafka.Topic{Name: name, Partitions: partitions, ReplicationFactor: copies, Retention: time.Hour})
	}
	if _, err := broker.CreateTopics(ctx, topics); err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		for partition := range partitions {
			for {
				_, err := broker.LastOffset(ctx, name, partition)
				if err == nil {
					break
				}
				if ctx.Err() != nil {
					t.Fatal(err)
				}
			}
		}
	}
}

const startTimeout = 60 * time.Second // on a machine that has much else to do

// Drain is what is committed of a topic, read to its end, again and again.
type Drain struct {
	broker    kafka.Broker
	topic     string
	positions []int64
}

// NewDrain begins at the topic's beginning.
func NewDrain(t testing.TB, broker kafka.Broker, topic string) *Drain {
	t.Helper()
	ids, err := broker.Partitions(t.Context(), topic)
	if err != nil {
		t.Fatal(err)
	}
	return &Drain{broker, topic, make([]int64, len(ids))}
}

// Next returns what was written since the last call, up to the end that the
// topic has now; where it fails, as much of that as it has read.
func (d *Drain) Next(ctx context.Context) ([]kafka.Message, error) {
	var out []kafka.Message
	for partition := range d.positions {
		end, err := d.broker.LastOffset(ctx, d.topic, partition)
		if err != nil {
			return out, err
		}
		for d.positions[partition] < end {
			records, err := d.fetch(ctx, partition)
			if err != nil {
				return out, err
			}
			out = append(out, records...)
		}
	}
	return out, nil
}

func (d *Drain) fetch(ctx context.Context, partition int) ([]kafka.Message, error) {
	got, err := d.broker.FetchRecords(ctx, d.topic, partition, d.positions[partition], kafka.FetchMaxBytes)
	if err != nil {
		return nil, err
	}
	d.positions[partition] = got.Next
	return got.Messages, nil
}

// Until waits for a condition that nothing announces.
func Until(t testing.TB, what string, done func() bool) {
	t.Helper()
	UntilWithin(t, startTimeout, what, done)
}

// UntilWithin is Until with a patience of its own.
func UntilWithin(t testing.TB, patience time.Duration, what string, done func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	for !done() {
		select {
		case <-ctx.Done():
			t.Fatalf("%s: not within %v", what, patience)
		case <-time.After(10 * time.Millisecond):
		}
	}
}
