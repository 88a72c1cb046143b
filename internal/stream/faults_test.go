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

	"tollgate/internal/kafka"
	"tollgate/internal/servertest"
	"tollgate/internal/stream"
)

func (s *setting) deleteTopic(topic string) {
	s.Helper()
	response, err := s.broker.Client.DeleteTopics(s.Context(), &kafkago.DeleteTopicsRequest{Topics: []string{topic}})
	if err == nil {
		err = response.Errors[topic]
	}
	if err != nil {
		s.Fatal(err)
	}
	servertest.Until(s.T, "the topic is gone", func() bool {
		_, failures, err := s.broker.Describe(s.Context(), []string{topic})
		return err == nil && len(failures) > 0
	})
}

// TestATopicThatIsMadeAgainIsConsumedFromItsBeginning is a regression test: in some rounds the consumer joined with no
// partitions, and stayed so. Offsets that it may still commit for the topic before do not count.
func TestATopicThatIsMadeAgainIsConsumedFromItsBeginning(t *testing.T) {
	eachDelivery(t, func(s *setting) {
		s.send(0, 100)
		e, _ := s.consumer()
		e.await(s.T, 100)
		for n := 100; n < 400; n += 100 {
			s.deleteTopic(s.in)
			servertest.CreateTopics(s.T, s.broker, partitions, s.in)
			// A client of its own: the other knows the topic as it was.
			late := kafka.NewPublisher(servertest.BrokerAt(s.T, s.broker.Addresses[0]), kafka.PublisherOptions{}, servertest.Logger(s.T))
			s.publisher = late
			s.send(n, n+100)
			s.awaitAll(n + 100)
		}
		if blocked := e.consumer.Blocked(); len(blocked) > 0 {
			s.Errorf("blocked: %v", blocked)
		}
	})
}

// TestATopicThatIsMissingStopsNoOther is a regression test: a topic that was deleted made the consumer join again and
// again, and what it had of other topics stood still.
func TestATopicThatIsMissingStopsNoOther(t *testing.T) {
	s := newSetting(t)
	other := s.in + ".other"
	servertest.CreateTopics(t, s.broker, partitions, other)
	s.adjust = func(o *stream.Options) { o.Topics = []string{s.in, other} }
	e, _ := s.consumer()
	s.send(0, 100)
	e.await(t, 100)
	s.deleteTopic(other)
	servertest.Until(t, "the topic is missed", func() bool { return slices.Equal(e.consumer.Missing(), []string{other}) })
	var before int
	e.with(func() { before = e.generations })
	for n := 100; n < 1000; n += 100 {
		s.send(n, n+100)
		e.await(t, n+100)
	}
	e.with(func() {
		if e.generations > before+2 {
			t.Errorf("%d generations while a topic was missing", e.generations-before)
		}
	})
	servertest.CreateTopics(t, s.broker, partitions, other)
	servertest.Until(t, "the topic is there again", func() bool { return len(e.consumer.Missing()) == 0 && e.consumer.Joined() })
	record := kafka.Message{Topic: other, Partition: 1, Key: []byte("key-0"), Value: []byte("001000")}
	if err := kafka.NewPublisher(servertest.BrokerAt(t, s.broker.Addresses[0]), kafka.PublisherOptions{}, servertest.Logger(t)).Publish(t.Context(), []kafka.Message{record}, plainly); err != nil {
		t.Fatal(err)
	}
	e.await(t, 1001)
}

// TestLagIsToldWhileNothingIsDecided is a regression test: it was told by what was fetched, so 40,000 records that
// waited counted as none.
func TestLagIsToldWhileNothingIsDecided(t *testing.T) {
	s := newSetting(t)
	s.adjust = func(o *stream.Options) { o.StalledAfter = 100 * time.Millisecond }
	e, _ := s.consumer()
	s.send(0, 10)
	e.await(t, 10)
	// The age of what comes next was once taken for known, since it has the offset that was looked at last.
	e.with(func() { clear(e.lags) })
	servertest.Until(t, "that nothing waits is told", func() (isTold bool) {
		e.with(func() { isTold = len(e.lags) == partitions })
		return isTold
	})
	block := make(chan struct{})
	e.with(func() { e.block = block })
	const waiting = 3000
	sent := time.Now()
	s.send(10, 10+waiting)
	// told returns the ages of the first records that wait: that of the partition with the newest, and with the oldest.
	told := func() (records int64, newest, oldest time.Duration) {
		newest = time.Hour
		e.with(func() {
			for _, l := range e.lags {
				records, newest, oldest = records+l.records, min(newest, l.oldest), max(oldest, l.oldest)
			}
		})
		return records, newest, oldest
	}
	servertest.Until(t, "the lag is told", func() bool {
		records, newest, oldest := told()
		return records == waiting && newest > 0 && oldest <= time.Since(sent)
	})
	servertest.Until(t, "the partitions are said to stand still", func() bool {
		stalls := e.consumer.Stalls()
		return len(stalls) == partitions && stalls[0].Lag > 0
	})
	close(block)
	e.await(t, 10+waiting)
	servertest.Until(t, "nothing waits", func() bool {
		records, _, oldest := told()
		return records == 0 && oldest == 0 && len(e.consumer.Stalls()) == 0
	})
}

// TestNothingIsInHandOnceAllIsDone is a regression test: what a worker gave up was in flight for ever.
func TestNothingIsInHandOnceAllIsDone(t *testing.T) {
	s := newSetting(t)
	e, stop := s.consumer()
	e.with(func() { e.lost = true }) // the partition is given up with records in hand
	s.send(0, 300)
	e.await(t, 300)
	block := make(chan struct{})
	e.with(func() { e.block = block })
	s.send(300, 600)
	servertest.Until(t, "records are in hand", func() (inHand bool) {
		e.with(func() { inHand = e.inHand > 0 })
		return inHand
	})
	stop() // which waits for the shutdown timeout, in vain
	e.with(func() {
		if e.inHand != 0 {
			t.Errorf("%d records are in hand", e.inHand)
		}
	})
}

// TestAnAnswerForATopicThatIsGoneGoesElsewhere is a regression test: one such record stopped its partition for ever.
func TestAnAnswerForATopicThatIsGoneGoesElsewhere(t *testing.T) {
	eachDelivery(t, func(s *setting) {
		gone := s.out + ".gone"
		s.adjust = func(o *stream.Options) {
			o.Refused = func(record kafka.Message, err error) ([]kafka.Message, bool) {
				if record.Topic != gone || !errors.Is(err, kafkago.UnknownTopicOrPartition) {
					s.Errorf("%s is refused: %v", record.Topic, err)
				}
				record.Topic = s.out
				return []kafka.Message{record}, true
			}
		}
		e, _ := s.consumer()
		s.send(0, 10)
		e.await(s.T, 10)
		e.with(func() { e.out = gone })
		s.send(10, 100)
		e.await(s.T, 100)
		e.with(func() { e.out = s.out })
		s.send(100, 200)
		e.await(s.T, 200)
		s.awaitAll(200)
	})
}

// TestAStaticMemberKeepsItsPartitionsOverARestart, and nobody else is disturbed.
func TestAStaticMemberKeepsItsPartitionsOverARestart(t *testing.T) {
	s := newSetting(t)
	start := func(instance string) (*echo, func()) {
		s.adjust = func(o *stream.Options) { o.InstanceID, o.SessionTimeout = instance, 30*time.Second }
		return s.consumer()
	}
	a, _ := start("a")
	_, stopB := start("b")
	share := func(e *echo) (partitions int) {
		e.with(func() { partitions = e.assigned })
		return partitions
	}
	servertest.Until(t, "both have partitions", func() bool { n := share(a); return n == 1 || n == 2 })
	s.send(0, 100)
	s.awaitAll(100)
	var before int
	a.with(func() { before = a.generations })
	stopB()
	again, _ := start("b")
	servertest.Until(t, "it is back", func() bool { return share(again)+share(a) == partitions })
	s.send(100, 200)
	s.awaitAll(200)
	a.with(func() {
		if a.generations != before {
			t.Errorf("the other joined %d generations meanwhile", a.generations-before)
		}
	})
	s.mustHave(200)
}

// TestTwoInstancesOfOneNameAreToldApart is a regression test: they took the partitions from each other without end. The
// one that was there first ends, and says why.
func TestTwoInstancesOfOneNameAreToldApart(t *testing.T) {
	s := newSetting(t)
	s.adjust = func(o *stream.Options) { o.InstanceID = "a" }
	first, stopFirst := s.start()
	s.send(0, 100)
	first.await(t, 100)
	second, _ := s.consumer()
	s.send(100, 200)
	servertest.Until(t, "the second has taken over", second.consumer.Joined)
	s.awaitAll(200)
	s.mustHave(200)
	servertest.Until(t, "the first has learned of it", first.ended.Load)
	err := stopFirst()
	if err == nil || !strings.Contains(err.Error(), `another worker has started as "a"`) {
		t.Errorf("the first ends with %v", err)
	}
	second.with(func() {
		if second.generations > 2 {
			t.Errorf("%d generations", second.generations)
		}
	})
}

// TestPartitionsWithoutRecordsAreCommittedToTheirEnd: what marks the end of a transaction is no lag.
func TestTheEndsOfTransactionsAreNoLag(t *testing.T) {
	eachDelivery(t, func(s *setting) {
		transactions := s.publisher.Transactions(s.group + ".sender")
		if err := transactions.Begin(s.Context()); err != nil {
			s.Fatal(err)
		}
		record := kafka.Message{Topic: s.in, Partition: 1, Key: []byte("key-0"), Value: []byte("000000")}
		if err := transactions.Publish(s.Context(), s.group+".sender", []kafka.Message{record}, plainly); err != nil {
			s.Fatal(err)
		}
		if err := transactions.End(s.Context(), true); err != nil {
			s.Fatal(err)
		}
		e, _ := s.consumer()
		e.await(s.T, 1)
		servertest.Until(s.T, "everything is committed", func() bool {
			committed, err := s.broker.Committed(context.Background(), s.group, s.in, []int{1})
			end, endErr := s.broker.LastOffset(context.Background(), s.in, 1)
			return err == nil && endErr == nil && committed[1] == end
		})
	})
}

// TestARecordThatIsTooLargeToKeepIsHandedOutInPart, and what is around it is whole.
func TestARecordThatIsTooLargeToKeepIsHandedOutInPart(t *testing.T) {
	s := newSetting(t)
	large := strings.Repeat("x", 300<<10)
	var records []kafka.Message
	for n, value := range []string{"a", large, "b"} {
		records = append(records, kafka.Message{Topic: s.in, Partition: 0, Key: fmt.Appendf(nil, "key-%d", n), Value: []byte(value)})
	}
	if err := s.publisher.Publish(t.Context(), records, plainly); err != nil {
		t.Fatal(err)
	}
	e, stop := s.consumer()
	e.await(t, 3)
	stop()
	if len(e.seen) != 3 || string(e.seen[0].Value) != "a" || string(e.seen[2].Value) != "b" {
		t.Fatalf("%d records", len(e.seen))
	}
	cut, ok := e.seen[1].WriterData.(kafka.Cut)
	if !ok || cut.Bytes < len(large) || len(e.seen[1].Value) > 65<<10 {
		t.Errorf("%d bytes were kept, %+v", len(e.seen[1].Value), e.seen[1].WriterData)
	}
}

// TestASendersOpenTransactionIsGivenAsTheReason why a partition stands still: nothing is wrong with the worker.
func TestASendersOpenTransactionIsGivenAsTheReason(t *testing.T) {
	s := newSetting(t)
	s.adjust = func(o *stream.Options) { o.StalledAfter = 100 * time.Millisecond }
	e, _ := s.consumer()
	s.send(0, 30)
	e.await(t, 30)
	transactions := s.publisher.Transactions(s.group + ".sender")
	if err := transactions.Begin(t.Context()); err != nil {
		t.Fatal(err)
	}
	record := kafka.Message{Topic: s.in, Partition: 1, Key: []byte("key-0"), Value: []byte("000030")}
	if err := transactions.Publish(t.Context(), s.group+".sender", []kafka.Message{record}, plainly); err != nil {
		t.Fatal(err)
	}
	servertest.Until(t, "the reason is told", func() bool {
		stalls := e.consumer.Stalls()
		return len(stalls) == 1 && stalls[0].Partition == 1 && strings.Contains(stalls[0].Reason, "a sender's transaction is open")
	})
	if err := transactions.End(t.Context(), true); err != nil {
		t.Fatal(err)
	}
	e.await(t, 31)
	servertest.Until(t, "it goes on", func() bool { return len(e.consumer.Stalls()) == 0 })
}
