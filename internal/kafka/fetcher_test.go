package kafka_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"

	kafkago "github.com/segmentio/kafka-go"

	"tollgate/internal/kafka"
	"tollgate/internal/servertest"
)

// fetching is a fetcher at work.
func (f *fixture) fetching() *kafka.Fetcher { return f.fetchingWith(kafka.FetcherOptions{}) }

func (f *fixture) fetchingWith(options kafka.FetcherOptions) *kafka.Fetcher {
	f.Helper()
	fetcher := kafka.NewFetcher(f.broker, options, servertest.Logger(f.T))
	ctx, stop := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { fetcher.Run(ctx) })
	f.Cleanup(func() {
		stop()
		running.Wait()
	})
	return fetcher
}

// topicID is that of the fixture's topic.
func (f *fixture) topicID() kafka.TopicID {
	f.Helper()
	layouts, _, err := f.broker.Describe(f.Context(), []string{f.at.Topic})
	if err != nil {
		f.Fatal(err)
	}
	return layouts[f.at.Topic].ID
}

// next reads what a cursor brings.
func (f *fixture) next(cursor *kafka.Cursor) (values []string) {
	f.Helper()
	got, err := cursor.Next(f.Context())
	if err != nil {
		f.Fatal(err)
	}
	defer cursor.Done(&got)
	reader := got.Reader(1 << 20)
	defer reader.Close()
	for done := false; !done; {
		records, last, err := reader.Next(f.Context(), 100, 1<<20)
		if err != nil {
			f.Fatal(err)
		}
		for i := range records {
			values = append(values, string(records[i].Value))
		}
		done = last
	}
	return values
}

func TestACursorGoesOnWhereItWas(t *testing.T) {
	f := newFixture(t)
	f.write("a", "b")
	cursor := f.fetching().Open(f.at, f.topicID(), 0, -1)
	defer cursor.Close()
	for _, want := range []string{"[a b]", "[c]", "[d e]"} {
		if got := fmt.Sprint(f.next(cursor)); got != want {
			t.Errorf("got %s, want %s", got, want)
		}
		switch want {
		case "[a b]":
			f.write("c")
		case "[c]":
			f.write("d", "e")
		}
	}
}

// TestManyIdlePartitionsTakeFewConnections is a regression test: a connection was busy for each.
func TestManyIdlePartitionsTakeFewConnections(t *testing.T) {
	const partitions, most = 96, 8
	lossy := servertest.NewLossy(t, servertest.KafkaAddr(t))
	f := newFixtureOn(t, lossy.Broker)
	many := servertest.Unique("many")
	servertest.CreateTopics(t, f.broker, partitions, many)
	f.at.Topic = many
	fetcher := f.fetching()
	var cursors []*kafka.Cursor
	for partition := range partitions {
		cursor := fetcher.Open(kafka.Target{Topic: many, Partition: partition}, f.topicID(), 0, -1)
		defer cursor.Close()
		cursors = append(cursors, cursor)
	}
	before := lossy.Dialed.Load()
	for _, partition := range []int{95, 0, 50, 0, 95} {
		value := fmt.Sprint(partition)
		record := kafka.Message{Topic: many, Partition: partition, Key: []byte("key"), Value: []byte(value)}
		if err := f.publisher.Publish(t.Context(), []kafka.Message{record}, plainly); err != nil {
			t.Fatal(err)
		}
		if got := f.next(cursors[partition]); fmt.Sprint(got) != "["+value+"]" {
			t.Errorf("partition %d: %q", partition, got)
		}
	}
	if made := lossy.Dialed.Load() - before; made > most {
		t.Errorf("%d connections were made", made)
	}
}

// TestAReaderThatStandsStillKeepsNoOtherFromReading, with more in each partition than one answer brings.
func TestAReaderThatStandsStillKeepsNoOtherFromReading(t *testing.T) {
	const partitions, records, size = 40, 6, 500 << 10
	f := newFixture(t)
	many := servertest.Unique("many")
	servertest.CreateTopics(t, f.broker, partitions, many)
	f.at.Topic = many
	for partition := range partitions {
		for range records {
			record := kafka.Message{Topic: many, Partition: partition, Key: []byte("key"), Value: make([]byte, size)}
			if err := f.publisher.Publish(t.Context(), []kafka.Message{record}, plainly); err != nil {
				t.Fatal(err)
			}
		}
	}
	fetcher := f.fetching()
	var all sync.WaitGroup
	for partition := range partitions {
		cursor := fetcher.Open(kafka.Target{Topic: many, Partition: partition}, f.topicID(), 0, -1)
		defer cursor.Close()
		if partition%4 > 0 {
			continue // nobody reads it
		}
		all.Go(func() {
			for n := 0; n < records; {
				got, err := cursor.Next(t.Context())
				if err != nil {
					t.Error(err)
					return
				}
				n += int(got.Next - got.From)
				cursor.Done(&got)
			}
		})
	}
	all.Wait()
}

func TestACursorTellsWhyThereIsNothing(t *testing.T) {
	f := newFixture(t)
	f.write("a")
	fetcher := f.fetching()
	cursor := fetcher.Open(f.at, f.topicID(), 100, -1)
	defer cursor.Close()
	for range 2 { // after an error the same is fetched anew
		if _, err := cursor.Next(t.Context()); !errors.Is(err, kafkago.OffsetOutOfRange) {
			t.Errorf("beyond the end: %v", err)
		}
	}
	none := fetcher.Open(kafka.Target{Topic: f.at.Topic + ".none"}, kafka.TopicID{}, 0, -1)
	defer none.Close()
	if _, err := none.Next(t.Context()); !errors.Is(err, kafkago.UnknownTopicOrPartition) {
		t.Errorf("no topic: %v", err)
	}
}

// TestATopicThatWasMadeAgainIsNotReadOn: offsets of the one before it mean nothing in it.
func TestATopicThatWasMadeAgainIsNotReadOn(t *testing.T) {
	f := newFixture(t)
	f.write("a", "b", "c")
	cursor := f.fetching().Open(f.at, f.topicID(), 0, -1)
	defer cursor.Close()
	f.next(cursor)
	response, err := f.broker.Client.DeleteTopics(t.Context(), &kafkago.DeleteTopicsRequest{Topics: []string{f.at.Topic}})
	if err == nil {
		err = response.Errors[f.at.Topic]
	}
	if err != nil {
		t.Fatal(err)
	}
	servertest.Until(t, "the topic is gone", func() bool {
		_, failures, err := f.broker.Describe(t.Context(), []string{f.at.Topic})
		return err == nil && len(failures) > 0
	})
	servertest.CreateTopics(t, f.broker, 1, f.at.Topic)
	f.write("1", "2", "3", "4", "5", "6")
	for range 3 {
		if got, err := cursor.Next(t.Context()); err == nil {
			t.Fatalf("offsets %d to %d of another topic were read", got.From, got.Next)
		}
	}
}
