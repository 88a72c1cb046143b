package kafka_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	kafkago "github.com/segmentio/kafka-go"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"

	"tollgate/internal/kafka"
	"tollgate/internal/kafka/recordbatch"
	"tollgate/internal/servertest"
)

const produceKey = 0

// TestALostAnswerToAProduceIsNoSecondRecord is a regression test: what a broker had written was written once more.
func TestALostAnswerToAProduceIsNoSecondRecord(t *testing.T) {
	lossy := servertest.NewLossy(t, servertest.KafkaAddr(t))
	f := newFixtureOn(t, lossy.Broker)
	f.write("a")
	lossy.Lose(produceKey, 3)
	f.write("b", "c")
	if lossy.Left() > 0 {
		t.Fatal("no answer was lost")
	}
	f.write("d")
	if got := f.read(); fmt.Sprint(got) != "[a b c d]" {
		t.Errorf("the log has %q", got)
	}
}

// TestNothingIsSentThatIsNoLongerConfirmed is a regression test: a worker that was frozen while it prepared a request, after
// it had confirmed its membership, sent the request when it was thawed.
func TestNothingIsSentThatIsNoLongerConfirmed(t *testing.T) {
	f := newFixture(t)
	confirmed := 0
	how := plainly
	how.Confirm = func(context.Context) error {
		if confirmed++; confirmed > 1 {
			return kafka.ErrFenced
		}
		return nil
	}
	err := f.publisher.Publish(t.Context(), []kafka.Message{{Topic: f.at.Topic, Key: []byte("key"), Value: []byte("late")}}, how)
	if !errors.Is(err, kafka.ErrFenced) {
		t.Errorf("got %v", err)
	}
	f.write("next")
	if got := fmt.Sprint(f.read()); got != "[next]" {
		t.Errorf("written: %s", got)
	}
}

// TestAPublicationThatWasGivenUpKeepsItsSession: a batch may be under way still, which the next one must not be taken
// for.
func TestAPublicationThatWasGivenUpKeepsItsSession(t *testing.T) {
	lossy := servertest.NewLossy(t, servertest.KafkaAddr(t))
	f := newFixtureOn(t, lossy.Broker)
	f.write("a")
	lossy.Lose(produceKey, 1)
	givenUp := errors.New("given up")
	confirmed := 0
	how := plainly
	how.Confirm = func(context.Context) error {
		if confirmed++; confirmed > 2 { // twice for the first try
			return givenUp
		}
		return nil
	}
	err := f.publisher.Publish(t.Context(), []kafka.Message{{Topic: f.at.Topic, Key: []byte("key"), Value: []byte("b")}}, how)
	if !errors.Is(err, givenUp) {
		t.Fatalf("got %v", err)
	}
	if free := f.publisher.FreeSessions(); free != 0 {
		t.Errorf("%d sessions are free", free)
	}
	f.write("c", "d")
	if got := f.read(); fmt.Sprint(got) != "[a b c d]" {
		t.Errorf("the log has %q", got)
	}
}

// TestASessionThatTheBrokersForgetIsBegunAnew. A broker forgets a producer after a day, which no test can wait for, so
// kfake is made to say that it has.
func TestASessionThatTheBrokersForgetIsBegunAnew(t *testing.T) {
	for _, refusal := range []*kerr.Error{kerr.UnknownProducerID, kerr.OutOfOrderSequenceNumber, kerr.InvalidProducerEpoch} {
		t.Run(refusal.Message, func(t *testing.T) {
			cluster, err := kfake.NewCluster(kfake.NumBrokers(1))
			if err != nil {
				t.Fatal(err)
			}
			defer cluster.Close()
			f := newFixtureOn(t, servertest.BrokerAt(t, cluster.ListenAddrs()[0]))
			f.write("a")
			refuseProducing(cluster, refusal.Code, 1, func(string) bool { return true })
			f.write("b")
			f.write("c")
			if got := f.read(); fmt.Sprint(got) != "[a b c]" {
				t.Errorf("the log has %q", got)
			}
		})
	}
}

// refuseProducing has kfake refuse to produce to some topics, for so many requests.
func refuseProducing(cluster *kfake.Cluster, code int16, times int32, topics func(string) bool) {
	var left atomic.Int32
	left.Store(times)
	cluster.ControlKey(produceKey, func(r kmsg.Request) (kmsg.Response, error, bool) {
		cluster.KeepControl()
		request := r.(*kmsg.ProduceRequest)
		if !topics(request.Topics[0].Topic) || left.Add(-1) < 0 {
			return nil, nil, false
		}
		response := request.ResponseKind().(*kmsg.ProduceResponse)
		for _, topic := range request.Topics {
			refused := kmsg.NewProduceResponseTopic()
			refused.Topic = topic.Topic
			for _, partition := range topic.Partitions {
				part := kmsg.NewProduceResponseTopicPartition()
				part.Partition, part.ErrorCode = partition.Partition, code
				refused.Partitions = append(refused.Partitions, part)
			}
			response.Topics = append(response.Topics, refused)
		}
		return response, nil, true
	})
}

// TestManyPublicationsAtOnceWriteEachRecordOnce, in order within each, with lost answers in between.
func TestManyPublicationsAtOnceWriteEachRecordOnce(t *testing.T) {
	lossy := servertest.NewLossy(t, servertest.KafkaAddr(t))
	f := newFixtureOn(t, lossy.Broker)
	const publications, records = 8, 40
	var all sync.WaitGroup
	for n := range publications {
		all.Go(func() {
			for i := range records {
				if i%10 == 3 {
					lossy.Lose(produceKey, 1)
				}
				record := kafka.Message{Topic: f.at.Topic, Key: fmt.Append(nil, n), Value: fmt.Appendf(nil, "%d/%03d", n, i)}
				if err := f.publisher.Publish(t.Context(), []kafka.Message{record}, plainly); err != nil {
					t.Error(err)
				}
			}
		})
	}
	all.Wait()
	got := f.read()
	slices.Sort(got)
	if len(got) != publications*records || len(slices.Compact(got)) != publications*records {
		t.Errorf("%d records, %d of them different", len(got), len(slices.Compact(got)))
	}
}

func TestARecordTooLargeForTheBrokerIsReplaced(t *testing.T) {
	f := newFixture(t)
	record := func(value []byte) kafka.Message {
		return kafka.Message{Topic: f.at.Topic, Key: []byte("key"), Value: value}
	}
	var refused error
	how := kafka.Delivery{Refused: func(r kafka.Message, err error) ([]kafka.Message, bool) {
		refused = err
		return []kafka.Message{record([]byte("replacement"))}, true
	}}
	err := f.publisher.Publish(t.Context(), []kafka.Message{record([]byte("a")), record(make([]byte, 2<<20)), record([]byte("b"))}, how)
	if err != nil || !kafka.IsTooLarge(refused) {
		t.Fatalf("got %v, refused %v", err, refused)
	}
	if got := f.read(); fmt.Sprint(got) != "[a replacement b]" {
		t.Errorf("the log has %q", got)
	}
}

// TestWhatIsSmallEnoughCompressedIsWritten is a regression test: dead letters of compressed records were lost.
func TestWhatIsSmallEnoughCompressedIsWritten(t *testing.T) {
	f := newFixture(t)
	for _, compression := range []recordbatch.Compression{recordbatch.Gzip, recordbatch.Snappy, recordbatch.LZ4, recordbatch.Zstd} {
		publisher := kafka.NewPublisher(f.broker, kafka.PublisherOptions{Compression: compression}, servertest.Logger(t))
		how := kafka.Delivery{Refused: func(_ kafka.Message, err error) ([]kafka.Message, bool) {
			t.Errorf("%v: %v", compression, err)
			return nil, true
		}}
		if err := publisher.Publish(t.Context(), []kafka.Message{{Topic: f.at.Topic, Key: []byte("key"), Value: make([]byte, 5<<20)}}, how); err != nil {
			t.Fatal(err)
		}
	}
	if got := f.read(); len(got) != 4 {
		t.Errorf("%d records", len(got))
	}
}

// TestATopicThatDoesNotExistKeepsOthersFromNothing: what was to go there goes elsewhere after a while, and at once from
// then on.
func TestATopicThatDoesNotExistKeepsOthersFromNothing(t *testing.T) {
	f := newFixture(t)
	none := f.at.Topic + ".none"
	how := kafka.Delivery{Refused: func(r kafka.Message, err error) ([]kafka.Message, bool) {
		if !errors.Is(err, kafkago.UnknownTopicOrPartition) {
			t.Errorf("refused: %v", err)
		}
		r.Topic = f.at.Topic
		return []kafka.Message{r}, true
	}}
	send := func(value string) time.Duration {
		began := time.Now()
		records := []kafka.Message{{Topic: none, Key: []byte("key"), Value: []byte(value)}, {Topic: f.at.Topic, Key: []byte("key"), Value: []byte("beside " + value)}}
		if err := f.publisher.Publish(t.Context(), records, how); err != nil {
			t.Fatal(err)
		}
		return time.Since(began)
	}
	first, second := send("a"), send("b")
	if first > 30*time.Second || second > time.Second {
		t.Errorf("it took %v, then %v", first, second)
	}
	// Once it is known that the topic takes nothing, order is kept: "b" came before what is beside it.
	if got := f.read(); fmt.Sprint(got) != "[beside a a b beside b]" {
		t.Errorf("the log has %q", got)
	}
}

// TestATopicMayBeMadeLate: what may not go elsewhere waits for it.
func TestATopicMayBeMadeLate(t *testing.T) {
	f := newFixture(t)
	late := servertest.Unique("late")
	how := kafka.Delivery{Refused: func(kafka.Message, error) ([]kafka.Message, bool) { return nil, false }}
	var once sync.Once
	how.Failed = func(error) error {
		once.Do(func() { servertest.CreateTopics(t, f.broker, 1, late) })
		return nil
	}
	if err := f.publisher.Publish(t.Context(), []kafka.Message{{Topic: late, Key: []byte("key"), Value: []byte("a")}}, how); err != nil {
		t.Fatal(err)
	}
	f.at.Topic = late
	if got := f.read(); fmt.Sprint(got) != "[a]" {
		t.Errorf("the log has %q", got)
	}
}

// TestThePartitionerAgreesWithJavas uses what Java's Utils.murmur2 gives (its own test's values), so that results keep
// the partitions of requests that Java clients sent.
func TestThePartitionerAgreesWithJavas(t *testing.T) {
	const partitions = 3
	broker := servertest.Broker(t)
	topic := servertest.Unique("partitioner")
	servertest.CreateTopics(t, broker, partitions, topic)
	publisher := kafka.NewPublisher(broker, kafka.PublisherOptions{}, servertest.Logger(t))
	for key, murmur2 := range map[string]int32{
		"21": -973932308, "foobar": -790332482, "a-little-bit-long-string": -985981536, "a-little-bit-longer-string": -1486304829,
		"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8": -58897971, "abc": 479470107,
	} {
		record := kafka.Message{Topic: topic, Partition: kafka.AnyPartition, Key: []byte(key), Value: []byte(key)}
		if err := publisher.Publish(t.Context(), []kafka.Message{record}, plainly); err != nil {
			t.Fatal(err)
		}
		records, err := servertest.NewDrain(t, broker, topic).Next(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		at := slices.IndexFunc(records, func(r kafka.Message) bool { return string(r.Key) == key })
		want := int(murmur2&0x7fffffff) % partitions
		if at < 0 || records[at].Partition != want || kafka.PartitionFor([]byte(key), partitions) != want {
			t.Errorf("%s is not in partition %d", key, want)
		}
	}
}

// TestABatchIsSentAgainAsItWas: what is put in another record's place joins the same partition while nobody knows whether
// the batch before it was written. A longer batch would be none that the broker knows.
func TestABatchIsSentAgainAsItWas(t *testing.T) {
	lossy := servertest.NewLossy(t, servertest.KafkaAddr(t))
	f := newFixtureOn(t, lossy.Broker)
	none := f.at.Topic + ".none"
	how := kafka.Delivery{Refused: func(r kafka.Message, _ error) ([]kafka.Message, bool) {
		lossy.Lose(produceKey, 0) // once the replacement is there, answers come through
		r.Topic = f.at.Topic
		return []kafka.Message{r}, true
	}}
	lossy.Lose(produceKey, 1000)
	records := []kafka.Message{{Topic: f.at.Topic, Key: []byte("key"), Value: []byte("a")}, {Topic: none, Key: []byte("key"), Value: []byte("b")}}
	if err := f.publisher.Publish(t.Context(), records, how); err != nil {
		t.Fatal(err)
	}
	if got := f.read(); fmt.Sprint(got) != "[a b]" {
		t.Errorf("the log has %q", got)
	}
}
