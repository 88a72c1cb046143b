package stream_test

import (
	"bytes"
	"fmt"
	"testing"

	kafkago "github.com/segmentio/kafka-go"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"

	"tollgate/internal/kafka"
	"tollgate/internal/servertest"
)

func newExactlyOnce(t *testing.T) *setting {
	s := newSetting(t)
	s.exactlyOnce = true
	return s
}

// rival is another producer under the transactional id of a partition of the input.
func (s *setting) rival(partition int) *kgo.Client {
	s.Helper()
	producer, err := kgo.NewClient(
		kgo.SeedBrokers(servertest.KafkaAddr(s.T)), kgo.DefaultProduceTopic(s.out),
		kgo.TransactionalID(fmt.Sprintf("%s/%s/%d", s.group, s.in, partition)),
	)
	if err != nil {
		s.Fatal(err)
	}
	s.Cleanup(producer.Close)
	return producer
}

func TestAnOpenTransactionOfTheOwnerBeforeIsAborted(t *testing.T) {
	s := newExactlyOnce(t)
	for partition := range partitions {
		before := s.rival(partition)
		if err := before.BeginTransaction(); err != nil {
			t.Fatal(err)
		}
		record := &kgo.Record{Key: []byte("key-0"), Value: []byte("never committed")}
		if err := before.ProduceSync(t.Context(), record).FirstErr(); err != nil {
			t.Fatal(err)
		}
	}
	s.send(0, 100)
	e, _ := s.consumer()
	e.await(t, 100)
	s.mustHave(100)
}

func TestAFencedSessionBeginsAnotherAndRepeatsNothing(t *testing.T) {
	s := newExactlyOnce(t)
	e, _ := s.consumer()
	for n := 0; n < 500; n += 100 {
		s.send(n, n+100)
		e.await(t, n+100)
		// A transaction under the same id ends the consumer's session.
		rival := s.rival(n / 100 % partitions)
		if err := rival.BeginTransaction(); err != nil {
			t.Fatal(err)
		}
		if err := rival.ProduceSync(t.Context(), &kgo.Record{Key: []byte("key-0"), Value: []byte("rival")}).FirstErr(); err != nil {
			t.Fatal(err)
		}
		if err := rival.EndTransaction(t.Context(), kgo.TryAbort); err != nil {
			t.Fatal(err)
		}
	}
	s.send(500, 600)
	e.await(t, 600)
	s.mustHave(600)
}

func TestARecordTooLargeIsReplacedWithinTheTransaction(t *testing.T) {
	s := newExactlyOnce(t)
	// The input takes what the output does not.
	response, err := s.broker.Client.IncrementalAlterConfigs(t.Context(), &kafkago.IncrementalAlterConfigsRequest{
		Resources: []kafkago.IncrementalAlterConfigsRequestResource{{
			ResourceType: kafkago.ResourceTypeTopic, ResourceName: s.out,
			Configs: []kafkago.IncrementalAlterConfigsRequestConfig{{
				Name: "max.message.bytes", Value: "1000", ConfigOperation: kafkago.ConfigOperationSet,
			}},
		}},
	})
	if err != nil || response.Resources[0].Error != nil {
		t.Fatal(err, response)
	}
	var records []kafka.Message
	for n := range 20 {
		value := fmt.Appendf(nil, "%06d", n)
		if n%3 == 0 {
			value = append(value, bytes.Repeat([]byte("."), 2000)...)
		}
		records = append(records, kafka.Message{Topic: s.in, Partition: -1, Key: fmt.Appendf(nil, "key-%d", n%10), Value: value})
	}
	if err := s.publisher.Publish(t.Context(), records, plainly); err != nil {
		t.Fatal(err)
	}
	e, _ := s.consumer()
	e.await(t, 20)
	s.mustHave(20)
	s.send(20, 40)
	e.await(t, 40)
	s.mustHave(40)
}

// TestACommittedOffsetIsThatOfTheTransaction holds what was published against what the
// group has committed: together or not at all.
func TestACommittedOffsetIsThatOfTheTransaction(t *testing.T) {
	s := newExactlyOnce(t)
	s.send(0, 100)
	e, stop := s.consumer()
	e.await(t, 100)
	stop()
	offsets, err := s.broker.Committed(t.Context(), s.group, s.in, []int{0, 1, 2})
	if err != nil {
		t.Fatal(err)
	}
	asked, err := servertest.NewDrain(t, s.broker, s.in).Next(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	ends := map[int]int64{}
	for _, record := range asked {
		ends[record.Partition] = max(ends[record.Partition], record.Offset+1)
	}
	for partition, end := range ends {
		if offsets[partition] != end {
			t.Errorf("partition %d: %d is committed, want %d", partition, offsets[partition], end)
		}
	}
}

// TestATransactionSpansBrokers has partitions led by different brokers: each is sent what
// is its own. The cluster is kfake's, since one real broker leads everything.
func TestATransactionSpansBrokers(t *testing.T) {
	cluster, err := kfake.NewCluster(kfake.NumBrokers(3))
	if err != nil {
		t.Fatal(err)
	}
	defer cluster.Close()
	addrs := cluster.ListenAddrs()
	s := settingOn(t, servertest.BrokerAt(t, addrs[0]))
	s.exactlyOnce = true
	for partition := range int32(partitions) {
		for _, topic := range []string{s.in, s.out} {
			if err := cluster.MoveTopicPartition(topic, partition, partition); err != nil {
				t.Fatal(err)
			}
		}
	}
	s.send(0, 300)
	e, _ := s.consumer()
	e.await(t, 300)
	s.mustHave(300)
	// Leaders move; the next transactions find the new ones.
	for partition := range int32(partitions) {
		if err := cluster.MoveTopicPartition(s.out, partition, (partition+1)%partitions); err != nil {
			t.Fatal(err)
		}
	}
	s.send(300, 600)
	e.await(t, 600)
	s.mustHave(600)
}

// TestWhatWasDecidedOfADeletedTopicIsPublished is a regression test: with transactions it was thrown away, since the
// offset that was to be part of them could not be committed. What had been deducted was never told to anybody. Without,
// the offset was tried to be committed for ever, and the consumer neither joined again nor stopped.
func TestWhatWasDecidedOfADeletedTopicIsPublished(t *testing.T) {
	for name, again := range map[string]bool{"gone for good": false, "made again": true} {
		t.Run(name, func(t *testing.T) {
			eachDelivery(t, func(s *setting) {
				s.send(0, 100)
				e, _ := s.consumer()
				e.await(s.T, 100)
				block := make(chan struct{})
				e.with(func() { e.block = block })
				s.send(100, 200)
				servertest.Until(s.T, "records are in hand", func() (inHand bool) {
					e.with(func() { inHand = e.inHand > 0 })
					return inHand
				})
				s.deleteTopic(s.in)
				if again {
					servertest.CreateTopics(s.T, s.broker, partitions, s.in)
				}
				close(block)
				servertest.Until(s.T, "nothing is in hand", func() (done bool) {
					e.with(func() { done = e.inHand == 0 })
					return done
				})
				s.joinsAgain(e, again)
				published := map[string]int{}
				for _, values := range s.valuesByKey() {
					for _, value := range values {
						published[value]++
					}
				}
				e.with(func() {
					if len(e.seen) <= 100 {
						s.Error("nothing was decided after the topic had gone")
					}
					for _, record := range e.seen {
						if n := published[string(record.Value)]; n != 1 {
							s.Errorf("%s was decided, and published %d times", record.Value, n)
						}
					}
				})
			})
		})
	}
}

// joinsAgain waits until the consumer goes on, with the topic if it is there.
func (s *setting) joinsAgain(e *echo, isThere bool) {
	s.Helper()
	servertest.Until(s.T, "the consumer goes on", func() (done bool) {
		e.with(func() { done = e.generations > 1 && (e.assigned == partitions) == isThere && e.assigned >= 0 })
		return done
	})
}
