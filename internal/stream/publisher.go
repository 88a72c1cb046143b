package stream

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/segmentio/kafka-go"
	"golang.org/x/sync/errgroup"
)

const (
	// maxProduceBytes keeps a request below the broker's default limit of a
	// message batch (message.max.bytes, 1 MiB).
	maxProduceBytes = 900 << 10
	recordOverhead  = 64
	produceTimeout  = 10 * time.Second
	partitionsTTL   = 10 * time.Second
)

// ErrNoSuchPartition says that a record names a partition that its topic lacks.
var ErrNoSuchPartition = errors.New("no such partition")

// Publisher writes records with acks=all, at once: no record waits for others to
// fill a batch.
type Publisher struct {
	client   *kafka.Client
	logger   *slog.Logger
	observer Observer
	balancer kafka.Murmur2Balancer // agrees with the Java client's partitioner

	mutex      sync.Mutex
	partitions map[string]partitionList
}

type partitionList struct {
	ids    []int
	readAt time.Time
}

// NewPublisher makes a publisher.
func NewPublisher(broker Broker, logger *slog.Logger, observer Observer) *Publisher {
	return &Publisher{client: broker.Client, logger: logger, observer: observer, partitions: map[string]partitionList{}}
}

// Refused says what to write in the place of a record that the broker will never take.
// What the broker refuses of that is dropped.
type Refused func(record kafka.Message, err error) []kafka.Message

type target struct {
	topic     string
	partition int
}

// Publish writes the records and returns when all are acknowledged. Within a
// partition they keep their order, also over retries. It tries until it succeeds
// or ctx ends; a record that the broker will never take (too large for it) is
// given to refused, which returns what to write in its place.
func (p *Publisher) Publish(ctx context.Context, records []kafka.Message, refused Refused) error {
	targets := map[target][]kafka.Message{}
	for _, record := range records {
		partition, err := p.partitionOf(ctx, record)
		if err != nil {
			return err
		}
		to := target{record.Topic, partition}
		targets[to] = append(targets[to], record)
	}
	group, ctx := errgroup.WithContext(ctx)
	for to, records := range targets {
		group.Go(func() error { return p.publishTo(ctx, to, records, refused) })
	}
	return group.Wait()
}

func (p *Publisher) partitionOf(ctx context.Context, record kafka.Message) (int, error) {
	ids, err := p.partitionsOf(ctx, record.Topic)
	if err != nil {
		return 0, err
	}
	if record.Partition >= 0 && record.Partition < len(ids) {
		return record.Partition, nil
	}
	// A partition that is not there is the sender's mistake; its key still leads
	// somewhere where the answer can be found.
	return p.balancer.Balance(record, ids...), nil
}

// partitionsOf lists a topic's partitions, trying until it succeeds or ctx ends.
func (p *Publisher) partitionsOf(ctx context.Context, topic string) ([]int, error) {
	p.mutex.Lock()
	known, ok := p.partitions[topic]
	p.mutex.Unlock()
	if ok && time.Since(known.readAt) < partitionsTTL {
		return known.ids, nil
	}
	for try := 0; ; try++ {
		ids, err := Partitions(ctx, p.client, topic)
		if err == nil {
			p.mutex.Lock()
			p.partitions[topic] = partitionList{ids: ids, readAt: time.Now()}
			p.mutex.Unlock()
			return ids, nil
		}
		logRetry(p.logger, try, "cannot read the partitions of a topic, trying again", err, "topic", topic)
		p.observer.Retried()
		if !pause(ctx, try) {
			return nil, fmt.Errorf("read partitions of %s: %w", topic, context.Cause(ctx))
		}
	}
}

// Partitions lists the ids of a topic's partitions, 0 and up.
func Partitions(ctx context.Context, client *kafka.Client, topic string) ([]int, error) {
	ctx, cancel := context.WithTimeout(ctx, produceTimeout)
	defer cancel()
	metadata, err := client.Metadata(ctx, &kafka.MetadataRequest{Topics: []string{topic}})
	if err != nil {
		return nil, fmt.Errorf("metadata: %w", err)
	}
	for _, t := range metadata.Topics {
		if t.Name != topic {
			continue
		}
		if t.Error != nil {
			return nil, fmt.Errorf("topic %s: %w", topic, t.Error)
		}
		ids := make([]int, len(t.Partitions))
		for i := range ids {
			ids[i] = i
		}
		if len(ids) > 0 {
			return ids, nil
		}
	}
	return nil, fmt.Errorf("topic %s: %w", topic, kafka.UnknownTopicOrPartition)
}

// publishTo writes records to one partition, in order, in requests of bounded size.
func (p *Publisher) publishTo(ctx context.Context, to target, records []kafka.Message, refused Refused) error {
	limit := maxProduceBytes
	for try := 0; len(records) > 0; {
		n := countWithin(records, limit)
		began := time.Now()
		err := p.produce(ctx, to, records[:n])
		switch {
		case err == nil:
			p.observer.Published(to.topic, n, time.Since(began))
			records, try = records[n:], 0
		case isTooLarge(err) && n > 1:
			limit = sizeOf(records[:n]) / 2
		case isTooLarge(err):
			if err := p.Publish(ctx, refused(records[0], err), drop); err != nil {
				return err
			}
			records = records[1:]
		default:
			logRetry(p.logger, try, "cannot publish, trying again", err, "topic", to.topic, "partition", to.partition)
			p.observer.Retried()
			if !pause(ctx, try) {
				return fmt.Errorf("publish to %s: %w", to.topic, context.Cause(ctx))
			}
			try++
		}
	}
	return nil
}

func drop(kafka.Message, error) []kafka.Message { return nil }

func isTooLarge(err error) bool {
	return errors.Is(err, kafka.MessageSizeTooLarge) || errors.Is(err, kafka.RecordListTooLarge)
}

func (p *Publisher) produce(ctx context.Context, to target, records []kafka.Message) error {
	ctx, cancel := context.WithTimeout(ctx, produceTimeout)
	defer cancel()
	now := time.Now()
	out := make([]kafka.Record, len(records))
	for i := range records {
		record := &records[i]
		out[i] = kafka.Record{
			Time: now, Key: kafka.NewBytes(record.Key), Value: kafka.NewBytes(record.Value), Headers: record.Headers,
		}
	}
	response, err := p.client.Produce(ctx, &kafka.ProduceRequest{
		Topic: to.topic, Partition: to.partition, RequiredAcks: kafka.RequireAll, Records: kafka.NewRecordReader(out...),
	})
	if err != nil {
		return err
	}
	return response.Error
}

func sizeOf(records []kafka.Message) int {
	size := 0
	for i := range records {
		size += recordSize(&records[i])
	}
	return size
}

func recordSize(record *kafka.Message) int {
	size := recordOverhead + len(record.Key) + len(record.Value)
	for _, header := range record.Headers {
		size += len(header.Key) + len(header.Value) + 4
	}
	return size
}

// countWithin is how many records, at least one, fit within so many bytes.
func countWithin(records []kafka.Message, limit int) int {
	size := 0
	for i := range records {
		size += recordSize(&records[i])
		if size > limit && i > 0 {
			return i
		}
	}
	return len(records)
}
