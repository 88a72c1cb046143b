//go:build real

package stream_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	kafkago "github.com/segmentio/kafka-go"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"tollgate/internal/kafka"
	"tollgate/internal/realtest"
	"tollgate/internal/servertest"
	"tollgate/internal/stream"
)

// These faults need what only a real Kafka does: `make stream`.

// ownKafka is a setting on a Kafka of the test's own.
func ownKafka(t *testing.T, exactlyOnce bool) (*setting, *realtest.Kafka) {
	k := realtest.StartKafka(t, realtest.KafkaOptions{})
	s := settingOn(t, servertest.BrokerAt(t, k.Addr))
	s.exactlyOnce = exactlyOnce
	return s, k
}

func (s *setting) configure(topic, name, value string) {
	s.Helper()
	response, err := s.broker.Client.IncrementalAlterConfigs(s.Context(), &kafkago.IncrementalAlterConfigsRequest{
		Resources: []kafkago.IncrementalAlterConfigsRequestResource{{
			ResourceType: kafkago.ResourceTypeTopic, ResourceName: topic,
			Configs: []kafkago.IncrementalAlterConfigsRequestConfig{{Name: name, Value: value, ConfigOperation: kafkago.ConfigOperationSet}},
		}},
	})
	if err == nil {
		err = response.Resources[0].Error
	}
	if err != nil {
		s.Fatal(err)
	}
}

// TestWhoHandsOverPublishesNothingLate is a regression test. Kafka took no results for a while, so the first member
// still had some in hand when a second one joined; the first stopped its heartbeats while it handed over, was given up
// and published three seconds after the second.
func TestWhoHandsOverPublishesNothingLate(t *testing.T) {
	s, _ := ownKafka(t, false)
	s.adjust = func(o *stream.Options) { o.SessionTimeout, o.ShutdownTimeout = 6*time.Second, 15*time.Second }
	first, _ := s.consumer()
	s.send(0, 30)
	first.await(t, 30)
	first.with(func() { first.signature = "first" })
	s.configure(s.out, "min.insync.replicas", "2") // of the one that there is
	s.send(30, 300)
	servertest.Until(t, "the first has records in hand", func() (inHand bool) {
		first.with(func() { inHand = first.inHand > 0 })
		return inHand
	})
	second, _ := s.consumer()
	second.with(func() { second.signature = "second" })
	// Longer than the session, shorter than the shutdown timeout.
	for deadline := time.Now().Add(9 * time.Second); time.Now().Before(deadline); time.Sleep(100 * time.Millisecond) {
		if second.count() > 0 {
			t.Fatal("the second has results acknowledged that Kafka does not take")
		}
	}
	s.configure(s.out, "min.insync.replicas", "1")
	s.awaitAll(300)
	records, err := servertest.NewDrain(t, s.broker, s.out).Next(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	handedOver := map[string]bool{} // by key
	for _, record := range records {
		switch by := header(record, "by"); {
		case by == "second":
			handedOver[string(record.Key)] = true
		case by == "first" && handedOver[string(record.Key)]:
			t.Errorf("%s of %s is the first's, and came after one of the second", record.Value, record.Key)
		}
	}
	s.mustHave(300)
}

func header(record kafka.Message, name string) string {
	for _, h := range record.Headers {
		if h.Key == name {
			return string(h.Value)
		}
	}
	return ""
}

// TestATruncatedLogIsNotReadFromItsBeginning is a regression test: 496 of 500 checks were decided again.
func TestATruncatedLogIsNotReadFromItsBeginning(t *testing.T) {
	for name, grow := range map[string]bool{"that is shorter": false, "that has grown again": true} {
		for _, exactlyOnce := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, exactly once %t", name, exactlyOnce), func(t *testing.T) {
				s, k := ownKafka(t, exactlyOnce)
				e, stop := s.consumer()
				for n := 0; n < 300; n += 10 { // in many batches
					s.send(n, n+10)
				}
				e.await(t, 300)
				stop()
				committed, err := s.broker.Committed(t.Context(), s.group, s.in, []int{0, 1, 2})
				if err != nil {
					t.Fatal(err)
				}
				const cut = 0
				k.Truncate(t, s.in, cut, committed[cut]/2)
				if grow { // past what was committed: only the epochs of the leaders tell
					var records []kafka.Message
					for n := range committed[cut] {
						records = append(records, kafka.Message{Topic: s.in, Partition: cut, Key: []byte("key-new"), Value: fmt.Appendf(nil, "%06d", 1000+n)})
					}
					if err := s.publisher.Publish(t.Context(), records, plainly); err != nil {
						t.Fatal(err)
					}
				}
				s.goesOnOnlyIfTold(cut, committed[cut])
			})
		}
	}
}

// goesOnOnlyIfTold holds a consumer against a partition whose log was truncated.
func (s *setting) goesOnOnlyIfTold(cut int, committed int64) {
	s.Helper()
	// The partition stops, the others go on.
	e, stop := s.consumer()
	servertest.Until(s.T, "the partition is blocked", func() bool {
		blocked := e.consumer.Blocked()
		return len(blocked) == 1 && blocked[0].Partition == cut &&
			strings.Contains(blocked[0].Reason, "truncated") && strings.Contains(blocked[0].Reason, fmt.Sprintf("up to offset %d", committed))
	})
	if err := s.publisher.Publish(s.Context(), []kafka.Message{{Topic: s.in, Partition: cut + 1, Key: []byte("beside"), Value: []byte("beside")}}, plainly); err != nil {
		s.Fatal(err)
	}
	e.await(s.T, 1)
	stop()
	if len(e.seen) != 1 {
		s.Fatalf("%d records were handed out", len(e.seen))
	}
	// The operator says that it shall go on at the end.
	end, err := s.broker.LastOffset(s.Context(), s.in, cut)
	if err != nil {
		s.Fatal(err)
	}
	s.adjust = func(o *stream.Options) { o.OnTruncation = stream.TruncationGoOn }
	goingOn, stop := s.consumer()
	servertest.Until(s.T, "nothing is blocked", func() bool { return goingOn.consumer.Joined() && len(goingOn.consumer.Blocked()) == 0 })
	// Where it begins is committed before anything is read.
	servertest.Until(s.T, "it has begun", func() bool {
		now, err := s.broker.Committed(s.Context(), s.group, s.in, []int{cut})
		return err == nil && now[cut] == end
	})
	if err := s.publisher.Publish(s.Context(), []kafka.Message{{Topic: s.in, Partition: cut, Key: []byte("late"), Value: []byte("late")}}, plainly); err != nil {
		s.Fatal(err)
	}
	goingOn.await(s.T, 1)
	stop()
	if len(goingOn.seen) != 1 || string(goingOn.seen[0].Value) != "late" {
		s.Errorf("%d records were handed out, the first of them %s", len(goingOn.seen), goingOn.seen[0].Value)
	}
	if lifetimes := goingOn.lifetimes[cut]; len(lifetimes) != 1 || slices.Contains(e.lifetimes[cut], lifetimes[0]) {
		s.Errorf("it goes on in lifetime %v", lifetimes)
	}
}

// TestRecordsThatRetentionTookAreCounted, and the consumer goes on behind them.
func TestRecordsThatRetentionTookAreCounted(t *testing.T) {
	s, k := ownKafka(t, false)
	e, stop := s.consumer()
	s.send(0, 30)
	e.await(t, 30)
	stop()
	ahead := int64(0)
	for n := range int64(20) {
		record := kafka.Message{Topic: s.in, Partition: 1, Key: []byte("key-0"), Value: fmt.Appendf(nil, "%06d", 100+n)}
		if err := s.publisher.Publish(t.Context(), []kafka.Message{record}, plainly); err != nil {
			t.Fatal(err)
		}
		ahead = n + 1
	}
	end, err := s.broker.LastOffset(t.Context(), s.in, 1)
	if err != nil {
		t.Fatal(err)
	}
	const left = 5
	deleteRecords(t, k.Addr, s.in, 1, end-left)
	again, _ := s.consumer()
	again.await(t, left)
	again.with(func() {
		if again.skipped != ahead-left {
			t.Errorf("%d records are said to be skipped, want %d", again.skipped, ahead-left)
		}
	})
}

// TestATopicThatRefusesRecordsStopsNobody is a regression test: a results topic that is compacted refuses records
// without a key, and one of them stopped its partition for ever.
func TestATopicThatRefusesRecordsStopsNobody(t *testing.T) {
	for _, exactlyOnce := range []bool{false, true} {
		t.Run(fmt.Sprintf("exactly once %t", exactlyOnce), func(t *testing.T) {
			s, _ := ownKafka(t, exactlyOnce)
			s.configure(s.out, "cleanup.policy", "compact")
			s.adjust = func(o *stream.Options) {
				o.Refused = func(record kafka.Message, err error) ([]kafka.Message, bool) {
					if !errors.Is(err, kafkago.InvalidRecord) {
						t.Errorf("refused: %v", err)
					}
					record.Key = []byte("key-0")
					return []kafka.Message{record}, true
				}
			}
			records := []kafka.Message{{Topic: s.in, Partition: 0, Key: []byte("key-0"), Value: []byte("000000")}}
			for n := 1; n < 50; n++ {
				record := kafka.Message{Topic: s.in, Partition: 0, Value: fmt.Appendf(nil, "%06d", n)}
				if n%3 > 0 {
					record.Key = []byte("key-0")
				}
				records = append(records, record)
			}
			if err := s.publisher.Publish(t.Context(), records, plainly); err != nil {
				t.Fatal(err)
			}
			e, _ := s.consumer()
			e.await(t, 50)
			if got := s.valuesByKey()["key-0"]; len(got) != 50 {
				t.Errorf("%d records came through", len(got))
			}
		})
	}
}

// TestABatchThatCannotBeReadStopsItsPartitionAlone, and says how to pass over it. What lies before it is decided.
func TestABatchThatCannotBeReadStopsItsPartitionAlone(t *testing.T) {
	s, k := ownKafka(t, false)
	const bad = 1
	write := func(values ...string) (at int64) {
		at, err := s.broker.LastOffset(t.Context(), s.in, bad)
		if err != nil {
			t.Fatal(err)
		}
		var records []kafka.Message
		for _, value := range values {
			records = append(records, kafka.Message{Topic: s.in, Partition: bad, Key: []byte("key-0"), Value: []byte(value)})
		}
		if err := s.publisher.Publish(t.Context(), records, plainly); err != nil {
			t.Fatal(err)
		}
		return at
	}
	write("before")
	at := write("unreadable", "as well")
	behind := write("behind")
	k.Corrupt(t, s.in, bad, at)
	e, stop := s.consumer()
	servertest.Until(t, "the partition is blocked", func() bool {
		blocked := e.consumer.Blocked()
		return len(blocked) == 1 && blocked[0].Partition == bad && strings.Contains(blocked[0].Reason, fmt.Sprintf("offset %d", at))
	})
	beside := kafka.Message{Topic: s.in, Partition: bad + 1, Key: []byte("key-0"), Value: []byte("beside")}
	if err := s.publisher.Publish(t.Context(), []kafka.Message{beside}, plainly); err != nil {
		t.Fatal(err)
	}
	e.await(t, 2)
	stop()
	committed, err := s.broker.Committed(t.Context(), s.group, s.in, []int{bad})
	if err != nil || committed[bad] != at {
		t.Fatalf("committed: %v, want %d: %v", committed, at, err)
	}
	if err := s.broker.Commit(t.Context(), s.group, s.in, bad, behind); err != nil {
		t.Fatal(err)
	}
	again, stop := s.consumer()
	again.await(t, 1)
	stop()
	if len(again.seen) != 1 || string(again.seen[0].Value) != "behind" {
		t.Errorf("%d records were handed out", len(again.seen))
	}
}

// TestAMemberThatWasGivenUpConfirmsNothing stands for a process that was stopped for longer than its session.
func TestAMemberThatWasGivenUpConfirmsNothing(t *testing.T) {
	s := newSetting(t)
	group := kafka.NewGroup(s.broker, kafka.GroupOptions{Group: s.group, Topics: []string{s.in}, SessionTimeout: 6 * time.Second, RebalanceTimeout: 10 * time.Second}, servertest.Logger(t))
	generation, err := group.Join(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer generation.Close()
	if err := generation.Confirm(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := group.Leave(context.Background()); err != nil { // as the group does to whoever is silent
		t.Fatal(err)
	}
	servertest.Until(t, "the generation is lost", func() bool { return generation.Lost().Err() != nil })
	if err := generation.Confirm(t.Context()); !errors.Is(err, stream.ErrPartitionLost) {
		t.Errorf("got %v", err)
	}
	if cause := context.Cause(generation.Over()); !errors.Is(cause, stream.ErrPartitionLost) {
		t.Errorf("it is over because of %v", cause)
	}
}

// deleteRecords deletes those below an offset, as retention does.
func deleteRecords(t *testing.T, addr, topic string, partition int32, below int64) {
	t.Helper()
	speaker, err := kgo.NewClient(kgo.SeedBrokers(addr))
	if err != nil {
		t.Fatal(err)
	}
	defer speaker.Close()
	request := kmsg.NewPtrDeleteRecordsRequest()
	request.TimeoutMillis = 10_000
	request.Topics = []kmsg.DeleteRecordsRequestTopic{{
		Topic: topic, Partitions: []kmsg.DeleteRecordsRequestTopicPartition{{Partition: partition, Offset: below}},
	}}
	response, err := request.RequestWith(t.Context(), speaker)
	if err != nil || response.Topics[0].Partitions[0].ErrorCode != 0 {
		t.Fatal(err, response)
	}
}
