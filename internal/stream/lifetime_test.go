package stream_test

import (
	"context"
	"errors"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	kafkago "github.com/segmentio/kafka-go"

	"tollgate/internal/servertest"
	"tollgate/internal/stream"
)

// register is a stream.Lifetimes in memory, which the consumers of a test share.
type register struct {
	mutex   sync.Mutex
	noted   map[stream.Place]stream.Lifetime
	stuck   bool          // Succeed does not answer
	waiting chan struct{} // for an answer of Succeed
}

func newRegister() *register {
	return &register{noted: map[stream.Place]stream.Lifetime{}, waiting: make(chan struct{}, 100)}
}

func (r *register) Lifetime(_ context.Context, at stream.Place) (stream.Lifetime, error) {
	r.mutex.Lock()
	defer r.mutex.Unlock()
	return r.noted[at], nil
}

func (r *register) Succeed(ctx context.Context, at stream.Place, next stream.Lifetime, before string) (stream.Lifetime, error) {
	r.mutex.Lock()
	defer r.mutex.Unlock()
	if r.stuck {
		r.waiting <- struct{}{}
		r.mutex.Unlock()
		<-ctx.Done()
		r.mutex.Lock()
		return stream.Lifetime{}, context.Cause(ctx)
	}
	if noted := r.noted[at]; noted.ID == "" || noted.ID == before {
		r.noted[at] = next
	}
	return r.noted[at], nil
}

func (r *register) setStuck(stuck bool) {
	r.mutex.Lock()
	defer r.mutex.Unlock()
	r.stuck = stuck
}

// lifetimesOf are those noted of the input's partitions.
func (r *register) lifetimesOf(topic string) (all [partitions]stream.Lifetime) {
	r.mutex.Lock()
	defer r.mutex.Unlock()
	for at, lifetime := range r.noted {
		if at.Topic == topic {
			all[at.Partition] = lifetime
		}
	}
	return all
}

// eventually waits until a condition holds.
func (s *setting) eventually(what string, holds func() bool) {
	s.Helper()
	timeout := time.After(patience)
	for !holds() {
		select {
		case <-time.After(10 * time.Millisecond):
		case <-timeout:
			s.Fatal(what, ": never")
		}
	}
}

// awaitBlocked waits until so many partitions do not begin, for a reason with these words in it.
func (s *setting) awaitBlocked(e *echo, n int, words ...string) {
	s.Helper()
	var blocked []stream.Blocked
	s.eventually("the partitions are blocked", func() bool {
		blocked = e.consumer.Blocked()
		return len(blocked) == n
	})
	for _, word := range words {
		if !strings.Contains(blocked[0].Reason, word) {
			s.Errorf("no %q in the reason: %s", word, blocked[0].Reason)
		}
	}
	if len(e.seen) > 0 {
		s.Errorf("%d records were decided", len(e.seen))
	}
}

// committed is what the group has committed of the input.
func (s *setting) committed() (all [partitions]kafkago.OffsetFetchPartition) {
	s.Helper()
	// What a transaction has committed shows a moment after its end was acknowledged, and kafka-go does not wait for it.
	s.eventually("no transaction is open", func() bool {
		_, err := s.broker.Commitments(s.Context(), s.group, s.in, []int{0, 1, 2})
		return err == nil
	})
	response, err := s.broker.Client.OffsetFetch(s.Context(), &kafkago.OffsetFetchRequest{GroupID: s.group, Topics: map[string][]int{s.in: {0, 1, 2}}})
	if err != nil {
		s.Fatal(err)
	}
	if response.Error != nil && !errors.Is(response.Error, kafkago.GroupIdNotFound) {
		s.Fatal(response.Error)
	}
	for _, p := range response.Topics[s.in] {
		if p.Error != nil {
			s.Fatal(p.Error)
		}
		all[p.Partition] = p
	}
	return all
}

// setOffsets does what Kafka's tools do, which Kafka takes while the group has no members.
func (s *setting) setOffsets(offsetOf func(partition int) int64) {
	s.Helper()
	for partition := range partitions {
		s.eventually("the offsets are set", func() bool {
			err := s.broker.Commit(s.Context(), s.group, s.in, partition, offsetOf(partition))
			if err != nil && !errors.Is(err, kafkago.UnknownMemberId) && !errors.Is(err, kafkago.RebalanceInProgress) {
				s.Fatal(err)
			}
			return err == nil
		})
	}
}

func (s *setting) end(partition int) int64 {
	s.Helper()
	end, err := s.broker.LastOffset(s.Context(), s.in, partition)
	if err != nil {
		s.Fatal(err)
	}
	return end
}

func (s *setting) deleteGroup() {
	s.Helper()
	s.eventually("the group is deleted", func() bool { // once its last member has left
		response, err := s.broker.Client.DeleteGroups(s.Context(), &kafkago.DeleteGroupsRequest{GroupIDs: []string{s.group}})
		if err != nil {
			s.Fatal(err)
		}
		err = response.Errors[s.group]
		if err != nil && !errors.Is(err, kafkago.NonEmptyGroup) {
			s.Fatal(err)
		}
		return err == nil
	})
}

// work has a consumer decide records, and returns it when it has ended.
func (s *setting) work(from, to int) *echo {
	s.Helper()
	s.send(from, to)
	e, stop := s.consumer()
	e.await(s.T, to-from)
	stop()
	return e
}

func (s *setting) mustHaveSeen(e *echo, n int) {
	s.Helper()
	if len(e.seen) != n {
		s.Errorf("%d records were decided, want %d", len(e.seen), n)
	}
}

func TestALifetimeOutlastsWorkersAndRebalances(t *testing.T) {
	eachDelivery(t, aLifetimeOutlastsWorkersAndRebalances)
}

func aLifetimeOutlastsWorkersAndRebalances(s *setting) {
	first := s.work(0, 100)
	began := s.register.lifetimesOf(s.in)
	second, _ := s.consumer()
	third, _ := s.consumer()
	n := 100
	for ; second.count() < 50 || third.count() < 50; n += 10 {
		s.send(n, n+10)
	}
	s.awaitAll(n)
	s.mustHave(n)
	for partition, lifetime := range began {
		if lifetime.ID == "" || lifetime.Group != s.group {
			s.Errorf("partition %d: %+v is noted", partition, lifetime)
		}
		for _, e := range []*echo{first, second, third} {
			e.mutex.Lock()
			if seen := e.lifetimes[partition]; len(seen) > 0 && !slices.Equal(seen, []string{lifetime.ID}) {
				s.Errorf("partition %d was decided in the lifetimes %v, want %s", partition, seen, lifetime.ID)
			}
			e.mutex.Unlock()
		}
	}
	if now := s.register.lifetimesOf(s.in); now != began {
		s.Errorf("%v are noted, before %v", now, began)
	}
	for partition, p := range s.committed() {
		if !strings.Contains(p.Metadata, began[partition].ID) {
			s.Errorf("partition %d: the metadata is %q", partition, p.Metadata)
		}
	}
}

func TestAGroupThatIsMadeAnewWaitsForItsOffsets(t *testing.T) {
	eachDelivery(t, aGroupThatIsMadeAnewWaits)
}

func aGroupThatIsMadeAnewWaits(s *setting) {
	s.work(0, 100)
	s.deleteGroup()
	second, _ := s.consumer()
	s.awaitBlocked(second, partitions, "no committed offset", s.group, "--reset-offsets")
	for _, p := range s.committed() {
		if p.CommittedOffset >= 0 {
			s.Errorf("partition %d: %d was committed", p.Partition, p.CommittedOffset)
		}
	}
	s.setOffsets(s.end)
	s.send(100, 200)
	second.await(s.T, 100)
	s.mustHave(200)
	s.mustHaveSeen(second, 100)
	if blocked := second.consumer.Blocked(); len(blocked) > 0 {
		s.Errorf("blocked: %v", blocked)
	}
}

func TestARenamedGroupWaitsForItsOffsets(t *testing.T) { eachDelivery(t, aRenamedGroupWaits) }

func aRenamedGroupWaits(s *setting) {
	s.work(0, 100)
	was := s.group
	s.group += "-renamed"
	second, stop := s.consumer()
	s.awaitBlocked(second, partitions, "no committed offset", was, s.group)
	s.setOffsets(s.end)
	s.send(100, 200)
	second.await(s.T, 100)
	s.mustHaveSeen(second, 100)
	stop()
	// The old group knows where it was, but not that it went on under another name.
	s.group = was
	third, _ := s.consumer()
	s.awaitBlocked(third, partitions, "has committed offset", was+"-renamed")
	s.setOffsets(s.end)
	s.send(200, 300)
	third.await(s.T, 100)
	s.mustHaveSeen(third, 100)
	s.mustHave(300)
}

func TestOnePartitionThatWaitsDoesNotHoldUpTheOthers(t *testing.T) {
	eachDelivery(t, onePartitionThatWaits)
}

func onePartitionThatWaits(s *setting) {
	s.work(0, 300)
	before := s.committed()
	s.eventually("an offset is deleted", func() bool {
		response, err := s.broker.Client.OffsetDelete(s.Context(), &kafkago.OffsetDeleteRequest{GroupID: s.group, Topics: map[string][]int{s.in: {1}}})
		if err != nil {
			s.Fatal(err)
		}
		return response.Error == nil && response.Topics[s.in][0].Error == nil
	})
	second, stop := s.consumer()
	s.awaitBlocked(second, 1, "no committed offset")
	s.send(300, 600)
	others := s.end(0) + s.end(2) - before[0].CommittedOffset - before[2].CommittedOffset
	second.await(s.T, int(others))
	if !second.consumer.Joined() || len(second.consumer.Blocked()) != 1 {
		s.Errorf("joined: %t, blocked: %v", second.consumer.Joined(), second.consumer.Blocked())
	}
	stop()
	s.eventually("the offset is set", func() bool {
		return s.broker.Commit(s.Context(), s.group, s.in, 1, before[1].CommittedOffset) == nil
	})
	third, _ := s.consumer()
	third.await(s.T, 300-int(others))
	s.mustHave(600)
	s.mustHaveSeen(third, 300-int(others))
}

func TestWhatWasSetBackIsDecidedAnew(t *testing.T) { eachDelivery(t, whatWasSetBackIsDecidedAnew) }

func whatWasSetBackIsDecidedAnew(s *setting) {
	first := s.work(0, 100)
	s.setOffsets(func(int) int64 { return 0 })
	s.send(100, 200)
	second, stop := s.consumer()
	second.await(s.T, 200)
	stop()
	s.mustHaveSeen(second, 200)
	for partition, noted := range s.register.lifetimesOf(s.in) {
		if !slices.Equal(second.lifetimes[partition], []string{noted.ID}) || slices.Contains(first.lifetimes[partition], noted.ID) {
			s.Errorf("partition %d: %v, then %v, and %v is noted", partition, first.lifetimes[partition], second.lifetimes[partition], noted)
		}
	}
}

// TestAToolThatKeepsTheMetadataEndsTheLifetime, too.
func TestAToolThatKeepsTheMetadataEndsTheLifetime(t *testing.T) {
	s := newSetting(t)
	first := s.work(0, 100)
	request := &kafkago.OffsetCommitRequest{GroupID: s.group, GenerationID: -1, Topics: map[string][]kafkago.OffsetCommit{}}
	for partition, p := range s.committed() {
		request.Topics[s.in] = append(request.Topics[s.in], kafkago.OffsetCommit{Partition: partition, Metadata: p.Metadata})
	}
	s.eventually("the offsets are set", func() bool {
		response, err := s.broker.Client.OffsetCommit(t.Context(), request)
		return err == nil && !slices.ContainsFunc(response.Topics[s.in], func(p kafkago.OffsetCommitPartition) bool { return p.Error != nil })
	})
	second, stop := s.consumer()
	second.await(t, 100)
	stop()
	s.mustHaveSeen(second, 100)
	for partition, lifetimes := range second.lifetimes {
		if slices.Equal(lifetimes, first.lifetimes[partition]) {
			t.Errorf("partition %d goes on in the lifetime %v", partition, lifetimes)
		}
	}
}

func TestAWorkerThatDiesAtABeginningLeavesItsLifetime(t *testing.T) {
	eachDelivery(t, aWorkerThatDiesAtABeginning)
}

func aWorkerThatDiesAtABeginning(s *setting) {
	// For the first time, and where the offsets were set.
	for n := 0; n < 200; n += 100 {
		s.send(n, n+100)
		before := s.register.lifetimesOf(s.in)
		s.register.setStuck(true)
		_, stop := s.consumer()
		for range partitions { // committed, but not noted yet
			<-s.register.waiting
		}
		stop()
		s.register.setStuck(false)
		began := s.committed()
		if now := s.register.lifetimesOf(s.in); now != before {
			s.Fatalf("%v are noted, before %v", now, before)
		}
		second, stop := s.consumer()
		second.await(s.T, 100)
		stop()
		for partition, p := range began {
			if len(second.lifetimes[partition]) != 1 || !strings.Contains(p.Metadata, second.lifetimes[partition][0]) {
				s.Errorf("partition %d: began as %q, went on in %v", partition, p.Metadata, second.lifetimes[partition])
			}
		}
		s.mustHave(n + 100)
		s.setOffsets(s.end)
	}
}

func TestAWorkerThatDiesBeforeItsFirstCommitLeavesItsLifetime(t *testing.T) {
	eachDelivery(t, aWorkerThatDiesBeforeItsFirstCommit)
}

func aWorkerThatDiesBeforeItsFirstCommit(s *setting) {
	s.send(0, 100)
	first, stop := s.consumer()
	first.mutex.Lock()
	first.lost = true // nothing of the first batch is published
	first.mutex.Unlock()
	first.await(s.T, 1)
	stop()
	second, stop := s.consumer()
	second.await(s.T, 100-first.count())
	stop()
	for partition, noted := range s.register.lifetimesOf(s.in) {
		for _, e := range []*echo{first, second} {
			if seen := e.lifetimes[partition]; len(seen) > 0 && !slices.Equal(seen, []string{noted.ID}) {
				s.Errorf("partition %d: decided in %v, noted %v", partition, seen, noted)
			}
		}
	}
	s.mustHave(100)
}

// TestKafkaGoTellsWhatACommitCameTo holds the decoders that lifetimes rest on against a broker's
// deliberate errors: kafka-go 0.4.51 reads those of a heartbeat from the wrong place (its pull
// request 1371).
func TestKafkaGoTellsWhatACommitCameTo(t *testing.T) {
	s := newSetting(t)
	const metadata = "what a tool may write: äöü"
	commit := func(topic string, partition, generation int, member, metadata string) error {
		t.Helper()
		response, err := s.broker.Client.OffsetCommit(t.Context(), &kafkago.OffsetCommitRequest{
			GroupID: s.group, GenerationID: generation, MemberID: member,
			Topics: map[string][]kafkago.OffsetCommit{topic: {{Partition: partition, Offset: 7, Metadata: metadata}}},
		})
		if err != nil {
			t.Fatal(err)
		}
		if len(response.Topics[topic]) != 1 || response.Topics[topic][0].Partition != partition || response.Throttle > time.Second {
			t.Fatalf("got %+v", response)
		}
		return response.Topics[topic][0].Error
	}
	if err := commit(s.in, 1, -1, "", metadata); err != nil {
		t.Fatal(err)
	}
	type fault struct {
		topic      string
		partition  int
		generation int
		member     string
		metadata   string
		want       []error
	}
	faults := map[string]fault{
		"a member that there is not": {s.in, 1, 5, "nobody", "stranger", []error{kafkago.UnknownMemberId, kafkago.IllegalGeneration}},
		"a topic that there is not":  {servertest.Unique("none"), 0, -1, "", "", []error{kafkago.UnknownTopicOrPartition}},
	}
	if os.Getenv(servertest.EnvKafka) != "" { // the embedded one takes any
		faults["too much metadata"] = fault{s.in, 1, -1, "", strings.Repeat("m", 5000), []error{kafkago.OffsetMetadataTooLarge}}
	}
	for name, c := range faults {
		err := commit(c.topic, c.partition, c.generation, c.member, c.metadata)
		if !slices.ContainsFunc(c.want, func(want error) bool { return errors.Is(err, want) }) {
			t.Errorf("%s: got %v, want one of %v", name, err, c.want)
		}
	}
	for partition, p := range s.committed() {
		switch {
		case partition == 1 && (p.CommittedOffset != 7 || p.Metadata != metadata):
			t.Errorf("got %+v", p)
		case partition != 1 && (p.CommittedOffset != -1 || p.Metadata != ""):
			t.Errorf("got %+v", p)
		}
	}
}
