package client

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	kafkago "github.com/segmentio/kafka-go"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"tollgate/internal/kafka"
	"tollgate/internal/servertest"
)

func TestMain(m *testing.M) { os.Exit(servertest.Main(m)) }

// rig is a client of a Kafka whose answers a test can forge.
type rig struct {
	*Client
	cluster *kfake.Cluster
	broker  kafka.Broker
	log     lockedLog
}

type lockedLog struct {
	mutex sync.Mutex
	text  bytes.Buffer
}

func (l *lockedLog) Write(p []byte) (int, error) {
	l.mutex.Lock()
	defer l.mutex.Unlock()
	return l.text.Write(p)
}

// warnings are how many there are in the log.
func (l *lockedLog) warnings() int {
	l.mutex.Lock()
	defer l.mutex.Unlock()
	return strings.Count(l.text.String(), "level=WARN")
}

const (
	topic      = "t"
	partitions = 3
)

func newRig(t *testing.T) *rig {
	t.Helper()
	cluster, err := kfake.NewCluster(kfake.NumBrokers(1))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cluster.Close)
	r := &rig{cluster: cluster, broker: servertest.BrokerAt(t, cluster.ListenAddrs()[0])}
	servertest.CreateTopics(t, r.broker, partitions, topic)
	r.Client = New(r.broker, slog.New(slog.NewTextHandler(&r.log, nil)))
	return r
}

// answer has the cluster answer requests of a kind with what forge makes, for as long as that is not nil.
func (r *rig) answer(key int16, forge func(kmsg.Request) kmsg.Response) {
	r.cluster.ControlKey(key, func(request kmsg.Request) (kmsg.Response, error, bool) {
		r.cluster.KeepControl()
		response := forge(request)
		return response, nil, response != nil
	})
}

// failFetches answers fetches with an error.
func (r *rig) failFetches(code kafkago.Error, while func() bool) {
	r.answer(int16(kmsg.Fetch), func(request kmsg.Request) kmsg.Response {
		if !while() {
			return nil
		}
		asked := request.(*kmsg.FetchRequest)
		response := asked.ResponseKind().(*kmsg.FetchResponse)
		for _, of := range asked.Topics {
			answer := kmsg.FetchResponseTopic{Topic: of.Topic, TopicID: of.TopicID}
			for _, partition := range of.Partitions {
				answer.Partitions = append(answer.Partitions, kmsg.FetchResponseTopicPartition{Partition: partition.Partition, ErrorCode: int16(code)})
			}
			response.Topics = append(response.Topics, answer)
		}
		return response
	})
}

// failProduces answers requests to write with an error.
func (r *rig) failProduces(code kafkago.Error, while func() bool) {
	r.answer(int16(kmsg.Produce), func(request kmsg.Request) kmsg.Response {
		if !while() {
			return nil
		}
		asked := request.(*kmsg.ProduceRequest)
		response := asked.ResponseKind().(*kmsg.ProduceResponse)
		for _, of := range asked.Topics {
			answer := kmsg.ProduceResponseTopic{Topic: of.Topic, TopicID: of.TopicID}
			for _, partition := range of.Partitions {
				answer.Partitions = append(answer.Partitions, kmsg.ProduceResponseTopicPartition{Partition: partition.Partition, ErrorCode: int16(code)})
			}
			response.Topics = append(response.Topics, answer)
		}
		return response
	})
}

func always() bool { return true }

// times is true for the first n calls.
func times(n int) func() bool {
	var mutex sync.Mutex
	return func() bool {
		mutex.Lock()
		defer mutex.Unlock()
		n--
		return n >= 0
	}
}

// within is a context for what must be over soon.
func within(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	t.Cleanup(cancel)
	return ctx
}

func record(value string) kafka.Message {
	return kafka.Message{Topic: topic, Partition: -1, Key: []byte(value), Value: []byte(value)}
}

// mustSay checks an error that stays.
func mustSay(t *testing.T, err error, wants ...string) {
	t.Helper()
	refusal, ok := errors.AsType[*Refusal](err)
	if !ok {
		t.Fatalf("got %v", err)
	}
	for _, want := range wants {
		if !strings.Contains(refusal.Error(), want) {
			t.Errorf("no %q in %q", want, refusal)
		}
	}
}

// deleteRecords deletes those below an offset.
func (r *rig) deleteRecords(t *testing.T, partition int32, below int64) {
	t.Helper()
	speaker, err := kgo.NewClient(kgo.SeedBrokers(r.cluster.ListenAddrs()...))
	if err != nil {
		t.Fatal(err)
	}
	defer speaker.Close()
	request := kmsg.NewPtrDeleteRecordsRequest()
	request.TimeoutMillis = 1000
	request.Topics = []kmsg.DeleteRecordsRequestTopic{{
		Topic: topic, Partitions: []kmsg.DeleteRecordsRequestTopicPartition{{Partition: partition, Offset: below}},
	}}
	response, err := request.RequestWith(t.Context(), speaker)
	if err != nil || response.Topics[0].Partitions[0].ErrorCode != 0 {
		t.Fatal(err, response)
	}
}
