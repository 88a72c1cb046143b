//go:build real

// The servers that tests are given must do what they say: a test of a failure that does not
// happen cannot fail. `make rig` runs it.
package realtest_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	kafkago "github.com/segmentio/kafka-go"

	"tollgate/internal/kafka"
	"tollgate/internal/proctest"
	"tollgate/internal/realtest"
	"tollgate/internal/servertest"
)

func TestMain(m *testing.M) { os.Exit(proctest.Main(m)) }

func TestACluster(t *testing.T) {
	c := realtest.StartKafkaCluster(t, 3)
	t.Run("has topics created as they should be", func(t *testing.T) { createsTopics(t, c) })
	t.Run("goes on without the leader, and refuses what too few brokers have", func(t *testing.T) { survives(t, c) })
}

// createsTopics holds `worker topics create` against what real brokers tell of their topics.
func createsTopics(t *testing.T, c *realtest.KafkaCluster) {
	create := func(flags ...string) string {
		out := proctest.Run(t, []string{"NO_COLOR=1"}, "worker", append([]string{"topics", "create", "--kafka-brokers", strings.Join(c.Addrs(), ",")}, flags...)...)
		if out.Code != 0 {
			t.Fatalf("exit code %d\n%s%s", out.Code, out.Stdout, out.Stderr)
		}
		return out.Stdout
	}
	if out := create(); strings.Count(out, "created") != 6 || strings.Contains(out, "Not as it should be") {
		t.Errorf("new topics:\n%s", out)
	}
	if out := create(); strings.Count(out, "exists, as it should be") != 6 {
		t.Errorf("once more:\n%s", out)
	}
	out := create("--topic-dead-letters", "alone", "--replication-factor", "1")
	if !strings.Contains(out, "# kafka-reassign-partitions.sh gives alone 3 copies") || strings.Count(out, "differs") > 0 {
		t.Errorf("one copy on three brokers:\n%s", out)
	}
}

func survives(t *testing.T, c *realtest.KafkaCluster) {
	topic := servertest.Unique("replicated")
	servertest.CreateTopics(t, servertest.BrokerAt(t, c.Addrs()...), 1, topic)
	c.AwaitWhole(t, topic)

	first := c.Leader(t, topic, 0)
	written := 0
	write(t, first, topic, &written)
	first.Kill(t)
	second := c.Leader(t, topic, 0)
	if second == first {
		t.Fatal("a dead broker leads")
	}
	write(t, second, topic, &written) // two of three have it
	first.Start(t)
	c.AwaitWhole(t, topic)

	for _, follower := range c.Followers(t, topic, 0) {
		follower.Freeze(t)
	}
	if leader := c.Leader(t, topic, 0); leader != second {
		t.Fatalf("%s leads, not %s", leader.Addr, second.Addr)
	}
	var refusal error
	realtest.Until(t, "a refusal", func() bool {
		refusal = produce(t.Context(), t, second, topic, "refused")
		if refusal == nil {
			t.Fatal("it was written by a leader without followers")
		}
		return errors.Is(refusal, kafkago.NotEnoughReplicas)
	})
	c.AwaitInSync(t, topic, 0, 1)
	for _, follower := range c.Followers(t, topic, 0) {
		follower.Thaw(t)
	}
	c.AwaitWhole(t, topic)
	write(t, c.Leader(t, topic, 0), topic, &written)

	// Whoever leads next has all that was acknowledged.
	c.Leader(t, topic, 0).Kill(t)
	last := c.Leader(t, topic, 0)
	realtest.Until(t, "the new leader knows what is committed", func() bool {
		_, err := servertest.BrokerAt(t, last.Addr).LastOffset(t.Context(), topic, 0)
		return err == nil
	})
	for i, found := 0, values(t, last, topic); i < written; i++ {
		if !found[fmt.Sprint(i)] {
			t.Errorf("record %d was acknowledged and is lost", i)
		}
	}
}

// write produces the next record until it is acknowledged.
func write(t *testing.T, leader *realtest.Kafka, topic string, written *int) {
	t.Helper()
	realtest.Until(t, "a record acknowledged", func() bool {
		return produce(t.Context(), t, leader, topic, fmt.Sprint(*written)) == nil
	})
	*written++
}

// produce asks one broker once.
func produce(ctx context.Context, t *testing.T, leader *realtest.Kafka, topic, value string) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	response, err := servertest.BrokerAt(t, leader.Addr).Client.Produce(ctx, &kafkago.ProduceRequest{
		Topic: topic, RequiredAcks: kafkago.RequireAll, Records: kafkago.NewRecordReader(kafkago.Record{Value: kafkago.NewBytes([]byte(value))}),
	})
	if err != nil {
		return err
	}
	return response.Error
}

// values are those of a topic's records.
func values(t *testing.T, leader *realtest.Kafka, topic string) map[string]bool {
	t.Helper()
	all := map[string]bool{}
	drain := servertest.NewDrain(t, servertest.BrokerAt(t, leader.Addr), topic)
	records, err := drain.Next(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, record := range records {
		all[string(record.Value)] = true
	}
	return all
}

// TestATruncatedLogEndsWhereItWasCut cuts logs of several segments, of which Kafka makes one
// for each mebibyte here, in batches of two records.
func TestATruncatedLogEndsWhereItWasCut(t *testing.T) {
	k := realtest.StartKafka(t, realtest.KafkaOptions{Properties: func(string) string { return "log.segment.bytes=1048576\n" }})
	const batches, perBatch = 20, 2
	for _, c := range []struct {
		name    string
		at, end int64
	}{
		{"nothing", batches * perBatch, batches * perBatch},
		{"the last batch", 38, 38},
		{"in the middle of a batch", 37, 36},
		{"several segments", 11, 10},
		{"all of it", 0, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			topic, broker := servertest.Unique("truncated"), servertest.BrokerAt(t, k.Addr)
			servertest.CreateTopics(t, broker, 1, topic)
			for range batches {
				writeBatch(t, broker, topic, perBatch)
			}
			if end := k.Truncate(t, topic, 0, c.at); end != c.end {
				t.Errorf("it ends at %d, not %d", end, c.end)
			}
			broker = servertest.BrokerAt(t, k.Addr) // whose connections are those to the Kafka that is now
			end, err := broker.LastOffset(t.Context(), topic, 0)
			if err != nil || end != c.end {
				t.Errorf("Kafka says %d and %v, not %d", end, err, c.end)
			}
			writeBatch(t, broker, topic, perBatch)
			records, err := servertest.NewDrain(t, broker, topic).Next(t.Context())
			if err != nil || len(records) != int(c.end)+perBatch {
				t.Errorf("%d records and %v, not %d", len(records), err, c.end+perBatch)
			}
			for i, record := range records {
				if record.Offset != int64(i) {
					t.Errorf("record %d has offset %d", i, record.Offset)
				}
			}
		})
	}
}

// writeBatch writes records that make a batch of some 200 KiB.
func writeBatch(t *testing.T, broker kafka.Broker, topic string, records int) {
	t.Helper()
	var batch []kafkago.Record
	for range records {
		batch = append(batch, kafkago.Record{Value: kafkago.NewBytes([]byte(strings.Repeat("x", 100<<10)))})
	}
	response, err := broker.Client.Produce(t.Context(), &kafkago.ProduceRequest{
		Topic: topic, RequiredAcks: kafkago.RequireAll, Records: kafkago.NewRecordReader(batch...),
	})
	if err == nil {
		err = response.Error
	}
	if err != nil {
		t.Fatal(err)
	}
}
