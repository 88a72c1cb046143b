package kafka_test

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
	"tollgate/internal/kafka/recordbatch"
	"tollgate/internal/servertest"
)

func TestMain(m *testing.M) { os.Exit(servertest.Main(m)) }

// fixture is a topic of one partition, a group and a publisher.
type fixture struct {
	*testing.T
	broker    kafka.Broker
	at        kafka.Target
	group     string
	publisher *kafka.Publisher
}

func newFixture(t *testing.T) *fixture { return newFixtureOn(t, servertest.Broker(t)) }

func newFixtureOn(t *testing.T, broker kafka.Broker) *fixture {
	t.Helper()
	name := servertest.Unique("kafka")
	servertest.CreateTopics(t, broker, 1, name)
	return &fixture{t, broker, kafka.Target{Topic: name}, name, kafka.NewPublisher(broker, kafka.PublisherOptions{}, servertest.Logger(t))}
}

// join makes a member of the fixture's group.
func (f *fixture) join() *kafka.Generation {
	f.Helper()
	group := kafka.NewGroup(f.broker, kafka.GroupOptions{
		Group: f.group, Topics: []string{f.at.Topic}, SessionTimeout: 6 * time.Second, RebalanceTimeout: 10 * time.Second,
	}, servertest.Logger(f.T))
	generation, err := group.Join(f.Context())
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() {
		generation.Close()
		if err := group.Leave(context.Background()); err != nil {
			f.Error(err)
		}
	})
	return generation
}

func (f *fixture) write(values ...string) {
	f.Helper()
	var records []kafka.Message
	for _, value := range values {
		records = append(records, kafka.Message{Topic: f.at.Topic, Partition: 0, Key: []byte("key"), Value: []byte(value)})
	}
	if err := f.publisher.Publish(f.Context(), records, plainly); err != nil {
		f.Fatal(err)
	}
}

func (f *fixture) read() (values []string) {
	f.Helper()
	records, err := servertest.NewDrain(f.T, f.broker, f.at.Topic).Next(f.Context())
	if err != nil {
		f.Fatal(err)
	}
	for _, record := range records {
		values = append(values, string(record.Value))
	}
	return values
}

// plainly has no record replaced.
var plainly = kafka.Delivery{Refused: func(kafka.Message, error) ([]kafka.Message, bool) { return nil, true }}

// TestRefusalsAreReadAsWhatTheyAre holds every answer on which a guarantee rests against errors that a broker is made
// to give. It is a regression test: kafka-go reads the error of a heartbeat as none (its pull request 1371).
func TestRefusalsAreReadAsWhatTheyAre(t *testing.T) {
	f := newFixture(t)
	f.write("a", "b")
	generation := f.join()
	ctx := t.Context()
	elsewhere := kafka.Target{Topic: f.at.Topic + ".none"}
	group := func(options kafka.GroupOptions) *kafka.Group {
		options.Topics = []string{f.at.Topic}
		return kafka.NewGroup(f.broker, options, servertest.Logger(t))
	}
	transactions := f.publisher.Transactions(f.group)
	if err := transactions.Begin(ctx); err != nil {
		t.Fatal(err)
	}
	producer, err := f.publisher.BeginSession(ctx, "", 0)
	if err != nil {
		t.Fatal(err)
	}
	record := kafka.Message{Key: []byte("key"), Value: []byte("c")}
	if err := f.publisher.ProduceAs(ctx, f.at, producer, record); err != nil {
		t.Fatal(err)
	}
	late, stranger := producer, producer
	late.Sequence = 7
	stranger.ID += 1_000_000
	for what, c := range map[string]struct {
		err  error
		want []error // one of them
	}{
		"heartbeat of nobody":               {kafka.Member(f.group, "nobody", generation.ID).Heartbeat(ctx, f.broker), []error{kafkago.UnknownMemberId}},
		"heartbeat in another generation":   {kafka.Member(f.group, generation.Member, generation.ID+7).Heartbeat(ctx, f.broker), []error{kafkago.IllegalGeneration}},
		"commit of nobody":                  {kafka.Member(f.group, "nobody", generation.ID).Commit(ctx, f.broker, f.at, 1), []error{kafkago.UnknownMemberId}},
		"commit in another generation":      {kafka.Member(f.group, generation.Member, generation.ID+7).Commit(ctx, f.broker, f.at, 1), []error{kafkago.IllegalGeneration}},
		"commit of no topic":                {kafka.Member(f.group, generation.Member, generation.ID).Commit(ctx, f.broker, elsewhere, 1), []error{kafkago.UnknownTopicOrPartition}},
		"sync of nobody":                    {group(kafka.GroupOptions{Group: f.group}).SyncAs(ctx, "nobody", generation.ID), []error{kafkago.UnknownMemberId}},
		"fetch beyond the end":              {f.broker.FetchAt(ctx, f.at, 1000, -1), []error{kafkago.OffsetOutOfRange}},
		"fetch of no topic":                 {f.broker.FetchAt(ctx, elsewhere, 0, -1), []error{kafkago.UnknownTopicOrPartition}},
		"offset of no topic":                {second(f.broker.LastOffset(ctx, elsewhere.Topic, 0)), []error{kafkago.UnknownTopicOrPartition}},
		"offset of no partition":            {second(f.broker.LastOffset(ctx, f.at.Topic, 9)), []error{kafkago.UnknownTopicOrPartition}},
		"a transaction that may last long":  {second(f.publisher.BeginSession(ctx, f.group+".long", 100*time.Hour)), []error{kafkago.InvalidTransactionTimeout}},
		"a sequence number that is too far": {f.publisher.ProduceAs(ctx, f.at, late, record), []error{kafkago.OutOfOrderSequenceNumber}},
		"a record that is too large":        {f.publisher.ProduceAs(ctx, f.at, producer, kafka.Message{Value: make([]byte, 3<<20)}), []error{kafkago.MessageSizeTooLarge}},
		"a partition of a stranger":         {impersonated(f, stranger).Join(ctx, f.at), []error{kafkago.InvalidProducerIDMapping, kafkago.TransactionalIDNotFound}},
		"offsets of a stranger":             {impersonated(f, stranger).JoinOffsets(ctx, f.group), []error{kafkago.InvalidProducerIDMapping, kafkago.TransactionalIDNotFound}},
		"end of a stranger":                 {impersonated(f, stranger).End(ctx, true), []error{kafkago.InvalidProducerIDMapping, kafkago.TransactionalIDNotFound}},
		"a partition of no topic":           {transactions.Join(ctx, elsewhere), []error{kafkago.UnknownTopicOrPartition}},
	} {
		if !isOneOf(c.err, c.want) {
			t.Errorf("%s: got %v, want %v", what, c.err, c.want)
		}
	}
	// The very batch again is no second one.
	if err := f.publisher.ProduceAs(ctx, f.at, producer, record); err != nil {
		t.Error(err)
	}
	if got := f.read(); fmt.Sprint(got) != "[a b c]" {
		t.Errorf("the log has %q", got)
	}
}

// TestOffsetsInATransactionAreRefusedOfAnotherGeneration, and of nobody.
func TestOffsetsInATransactionAreRefusedOfAnotherGeneration(t *testing.T) {
	f := newFixture(t)
	f.write("a")
	generation := f.join()
	for what, c := range map[string]struct {
		member string
		id     int
		want   error
	}{
		"another generation": {generation.Member, generation.ID + 7, kafkago.IllegalGeneration},
		"nobody":             {"nobody", generation.ID, kafkago.UnknownMemberId},
	} {
		transactions := f.publisher.Transactions(f.group)
		if err := transactions.Begin(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := transactions.JoinOffsets(t.Context(), f.group); err != nil {
			t.Fatal(err)
		}
		other := kafka.MadeUp(f.broker, kafka.Member(f.group, c.member, c.id), time.Hour)
		err := transactions.CommitOffset(t.Context(), other, f.at, kafka.Commitment{Offset: 1, Epoch: -1})
		if !errors.Is(err, c.want) || !errors.Is(err, kafka.ErrFenced) {
			t.Errorf("%s: %v", what, err)
		}
		if other.Lost().Err() == nil {
			t.Errorf("%s: the generation goes on", what)
		}
		other.Close()
		if err := transactions.End(t.Context(), false); err != nil {
			t.Error(err)
		}
	}
	committed, err := f.broker.Committed(t.Context(), f.group, f.at.Topic, []int{0})
	if err != nil || committed[0] != -1 {
		t.Errorf("committed: %v, %v", committed, err)
	}
}

// TestAnOffsetInAnOpenTransactionIsNotReadYet: it is neither the old one nor the new.
func TestAnOffsetInAnOpenTransactionIsNotReadYet(t *testing.T) {
	f := newFixture(t)
	f.write("a")
	generation := f.join()
	transactions := f.publisher.Transactions(f.group)
	if err := transactions.Begin(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := transactions.JoinOffsets(t.Context(), f.group); err != nil {
		t.Fatal(err)
	}
	if err := transactions.CommitOffset(t.Context(), generation, f.at, kafka.Commitment{Offset: 1, Epoch: -1, Metadata: "mine"}); err != nil {
		t.Fatal(err)
	}
	_, err := f.broker.Commitments(t.Context(), f.group, f.at.Topic, []int{0})
	if !errors.Is(err, kafkago.UnstableOffsetCommit) {
		t.Errorf("while it is open: %v", err)
	}
	if err := transactions.End(t.Context(), true); err != nil {
		t.Fatal(err)
	}
	for {
		got, err := f.broker.Commitments(t.Context(), f.group, f.at.Topic, []int{0})
		if errors.Is(err, kafkago.UnstableOffsetCommit) {
			continue // its end is being written
		}
		if err != nil || got[0].Offset != 1 || got[0].Metadata != "mine" {
			t.Errorf("once it is committed: %+v, %v", got, err)
		}
		return
	}
}

func impersonated(f *fixture, producer recordbatch.Producer) *kafka.Transactions {
	transactions := f.publisher.Transactions(f.group)
	transactions.Impersonate(producer)
	return transactions
}

func isOneOf(err error, wanted []error) bool {
	for _, want := range wanted {
		if errors.Is(err, want) {
			return true
		}
	}
	return false
}

func second[T any](_ T, err error) error { return err }

// TestAPartitionThatWasNotAttemptedSaysSo is a regression test: kafka-go takes the code for "Broker Authorization
// Failed", which sends whoever reads it to the ACLs.
func TestAPartitionThatWasNotAttemptedSaysSo(t *testing.T) {
	f := newFixture(t)
	transactions := f.publisher.Transactions(f.group)
	servertest.Until(t, "a coordinator", func() bool { return transactions.Begin(t.Context()) == nil })
	elsewhere := kafka.Target{Topic: f.at.Topic + ".none"}
	failures := transactions.JoinAll(t.Context(), f.at, elsewhere)
	if err := failures[elsewhere]; !errors.Is(err, kafkago.UnknownTopicOrPartition) {
		t.Errorf("a topic that does not exist: %v", err)
	}
	if err := failures[f.at]; err == nil || errors.Is(err, kafkago.BrokerAuthorizationFailed) || !strings.Contains(err.Error(), "not attempted") {
		t.Errorf("the one beside it: %v", err)
	}
}
