package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"

	"github.com/segmentio/kafka-go"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"tollgate/internal/proctest"
	"tollgate/internal/servertest"
	"tollgate/internal/wire"
)

// forgetful is a Kafka that loses the answer to the first writing to a topic, and what it knew of the producer's session:
// it has the records, and takes them again.
type forgetful struct {
	cluster *kfake.Cluster
	d       *proctest.Deployment
	flags   []string     // of the producer
	lost    atomic.Int32 // answers
}

func newForgetful(t *testing.T) *forgetful {
	t.Helper()
	cluster, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.BrokerConfigs(map[string]string{"group.min.session.timeout.ms": "1000"}))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cluster.Close)
	addr := cluster.ListenAddrs()[0]
	d := proctest.NewDeploymentOn(t, servertest.BrokerAt(t, addr), "--redis-addrs", servertest.RedisAddr(t))
	d.StartReady(t)
	d.Command(t, "acme", `{"type":"customer.put","customer_id":"acme"}`)
	return &forgetful{cluster: cluster, d: d, flags: append([]string{"--kafka-brokers", addr}, d.TopicFlags...)}
}

// loseAnswer has the next writing to a topic taken, and its answer lost.
func (f *forgetful) loseAnswer(t *testing.T, topic string) {
	t.Helper()
	other, err := kgo.NewClient(kgo.SeedBrokers(f.cluster.ListenAddrs()...))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(other.Close)
	id := topicID(t, other, topic)
	var done atomic.Bool
	f.cluster.ControlKey(int16(kmsg.Produce), func(request kmsg.Request) (kmsg.Response, error, bool) {
		f.cluster.KeepControl()
		asked := request.(*kmsg.ProduceRequest)
		if len(asked.Topics) == 0 || asked.Topics[0].Topic != topic && asked.Topics[0].TopicID != id || done.Swap(true) {
			return nil, nil, false
		}
		again := *asked
		again.Topics = []kmsg.ProduceRequestTopic{asked.Topics[0]}
		again.Topics[0].Topic, again.Topics[0].TopicID = topic, id
		again.Topics[0].Partitions = nil
		for _, partition := range asked.Topics[0].Partitions {
			partition.Records = withoutSession(t, partition.Records)
			again.Topics[0].Partitions = append(again.Topics[0].Partitions, partition)
		}
		f.cluster.SleepControl(func() {
			response, err := again.RequestWith(context.Background(), other)
			if err != nil || response.Topics[0].Partitions[0].ErrorCode != 0 {
				t.Errorf("%v: %+v", err, response)
			}
		})
		f.lost.Add(1)
		return nil, errors.New("the answer is lost"), true
	})
}

func topicID(t *testing.T, client *kgo.Client, topic string) [16]byte {
	t.Helper()
	request := kmsg.NewPtrMetadataRequest()
	request.Topics = []kmsg.MetadataRequestTopic{{Topic: &topic}}
	response, err := request.RequestWith(t.Context(), client)
	if err != nil || len(response.Topics) != 1 {
		t.Fatal(err, response)
	}
	return response.Topics[0].TopicID
}

// withoutSession is a batch as a producer writes it that has no id, so that nobody sees that it comes again.
func withoutSession(t *testing.T, records []byte) []byte {
	t.Helper()
	var batch kmsg.RecordBatch
	if err := batch.ReadFrom(records); err != nil {
		t.Fatal(err)
	}
	batch.ProducerID, batch.ProducerEpoch, batch.FirstSequence = -1, -1, -1
	const crcEnd = 21 // the checksum is over all behind itself
	batch.CRC = int32(crc32.Checksum(batch.AppendTo(nil)[crcEnd:], crc32.MakeTable(crc32.Castagnoli)))
	return batch.AppendTo(nil)
}

// left is what acme has of a feature.
func (f *forgetful) left(t *testing.T, feature string) string {
	t.Helper()
	return f.d.Command(t, "acme", `{"type":"customer.get","customer_id":"acme"}`).Balances[feature].Remaining.String()
}

// TestWhatKafkaTookTwiceIsDeductedOnce is a regression: the two records were two questions.
func TestWhatKafkaTookTwiceIsDeductedOnce(t *testing.T) {
	f := newForgetful(t)
	file := filepath.Join(t.TempDir(), "lines")
	const line = `{"customer_id":"acme","feature_id":"messages","send_event":true}`
	if err := os.WriteFile(file, []byte(line+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	checks, commands := f.d.Topics.Checks, f.d.Topics.Commands
	check := []string{"check", "--customer", "acme", "--feature", "messages", "--send-event"}
	left := 5 // of the free plan
	for _, c := range []struct {
		name    string
		topic   string
		command []string
		costs   int // of the messages
	}{
		{"check", checks, check, 1},
		{"track", commands, []string{"track", "--customer", "acme", "--feature", "messages"}, 1},
		{"send", checks, []string{"send", file, "--wait"}, 1},
		{"a grant", commands, []string{"grant", "--customer", "acme", "--feature", "messages", "--amount", "10"}, -10},
		{"balance.update", commands, []string{"command", "balance.update", "--customer", "acme", "--feature", "messages", "--add=-2"}, 2},
		{"a check without a key", checks, append(check, "--no-idempotency-key"), 2}, // so the others can fail
	} {
		t.Run(c.name, func(t *testing.T) {
			results := servertest.NewDrain(t, f.d.Broker, map[string]string{checks: f.d.Topics.CheckResults, commands: f.d.Topics.CommandResults}[c.topic])
			if _, err := results.Next(t.Context()); err != nil {
				t.Fatal(err)
			}
			before := f.lost.Load()
			f.loseAnswer(t, c.topic)
			(&shell{t, f.flags}).run(0, c.command...)
			if f.lost.Load() != before+1 {
				t.Fatal("no answer was lost")
			}
			f.d.AwaitRecords(t, results, 2) // each record is answered
			left -= c.costs
			if got := f.left(t, "messages"); got != fmt.Sprint(left) {
				t.Errorf("%s left, want %d", got, left)
			}
		})
	}
}

// TestOnlyWhatChangesSomethingHasAKey holds what a key is made for: it costs Redis a key.
func TestOnlyWhatChangesSomethingHasAKey(t *testing.T) {
	d := proctest.NewDeployment(t)
	d.StartReady(t)
	s := &shell{t, append([]string{"--kafka-brokers", servertest.KafkaAddr(t)}, d.TopicFlags...)}
	checks, commands := servertest.NewDrain(t, d.Broker, d.Topics.Checks), servertest.NewDrain(t, d.Broker, d.Topics.Commands)
	key := func(drain *servertest.Drain) string {
		t.Helper()
		return keyOf(d.AwaitRecords(t, drain, 1)[0])
	}
	keys := map[string]string{}
	fresh := func(what, key string) {
		t.Helper()
		if key == "" || keys[key] != "" {
			t.Errorf("%s has the key %q, %s before", what, key, keys[key])
		}
		keys[key] = what
	}
	s.run(0, "command", "customer.put", "--customer", "acme")
	fresh("a command", key(commands))
	check := []string{"check", "--customer", "acme", "--feature", "messages"}
	for range 2 {
		s.run(0, append(check, "--send-event")...)
		fresh("a check that deducts", key(checks))
	}
	for want, command := range map[string][]string{
		"mine": append(check, "--idempotency-key", "mine"), "mine, too": append(check, "--send-event", "--idempotency-key", "mine, too"),
	} {
		if s.run(0, command...); key(checks) != want {
			t.Errorf("%v has another key", command)
		}
	}
	for _, command := range [][]string{check, append(check, "--send-event", "--no-idempotency-key")} {
		s.run(0, command...)
		if got := key(checks); got != "" {
			t.Errorf("%v has the key %q", command, got)
		}
	}
	s.run(0, "balances", "--customer", "acme")
	if got := key(commands); got != "" {
		t.Errorf("balances has the key %q", got)
	}
	if out := s.run(2, append(check, "--idempotency-key", "k", "--no-idempotency-key")...); out.Stderr == "" {
		t.Error("both flags are taken in silence")
	}
}

func keyOf(record kafka.Message) string {
	for _, header := range record.Headers {
		if header.Key == wire.HeaderIdempotencyKey {
			return string(header.Value)
		}
	}
	return ""
}

func TestLinesThatAreSentAgainWithTheKeyOfTheFirstTimeCountOnce(t *testing.T) {
	s := newShell(t)
	s.run(0, "command", "customer.put", "--customer", "acme")
	const lines = `{"customer_id":"acme","feature_id":"messages","send_event":true}
{"customer_id":"acme","feature_id":"messages"}
{"customer_id":"acme","feature_id":"messages","send_event":true}
`
	var summary sent
	if err := json.Unmarshal([]byte(s.runWith(lines, 0, "send", "--wait", "-o", "json").Stdout), &summary); err != nil || summary.Key == "" {
		t.Fatal(err, summary)
	}
	s.runWith(lines, 0, "send", "--wait", "--idempotency-key", summary.Key)
	s.mustSay(s.run(0, "balances", "--customer", "acme"), "3 of 5 left")
	s.runWith(lines, 0, "send", "--wait")
	s.mustSay(s.run(0, "balances", "--customer", "acme"), "1 of 5 left")
}
