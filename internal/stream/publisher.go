package stream

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/segmentio/kafka-go"
)

const (
	// maxProduceBytes keeps a request below the broker's default limit of a
	// message batch (message.max.bytes, 1 MiB).
	maxProduceBytes = 900 << 10
	recordOverhead  = 64
	produceTimeout  = 10 * time.Second
	layoutTTL       = 10 * time.Second
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

	mutex  sync.Mutex
	topics map[string]layout
}

// layout is what a topic's partitions are, by their ids: 0 and up.
type layout struct {
	ids     []int
	leaders []int // ids of brokers
	readAt  time.Time
}

// NewPublisher makes a publisher.
func NewPublisher(broker Broker, logger *slog.Logger, observer Observer) *Publisher {
	return &Publisher{client: broker.Client, logger: logger, observer: observer, topics: map[string]layout{}}
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
	return p.publishConfirmed(ctx, records, refused, nil)
}

// publishConfirmed is Publish, with a confirmation before each try: it fails as confirm does.
func (p *Publisher) publishConfirmed(ctx context.Context, records []kafka.Message, refused Refused, confirm func(context.Context) error) error {
	targets, err := p.route(ctx, records)
	if err != nil {
		return err
	}
	return publication{Publisher: p, produce: p.producePlainly, insist: true, refused: refused, confirm: confirm}.publish(ctx, targets)
}

// route sorts records by where they go, trying until it succeeds or ctx ends.
func (p *Publisher) route(ctx context.Context, records []kafka.Message) (map[target][]kafka.Message, error) {
	targets := map[target][]kafka.Message{}
	for _, record := range records {
		partition, err := p.partitionOf(ctx, record)
		if err != nil {
			return nil, err
		}
		to := target{record.Topic, partition}
		targets[to] = append(targets[to], record)
	}
	return targets, nil
}

func (p *Publisher) partitionOf(ctx context.Context, record kafka.Message) (int, error) {
	topic, err := p.layoutOf(ctx, record.Topic)
	if err != nil {
		return 0, err
	}
	if record.Partition >= 0 && record.Partition < len(topic.ids) {
		return record.Partition, nil
	}
	// A partition that is not there is the sender's mistake; its key still leads
	// somewhere where the answer can be found.
	return p.balancer.Balance(record, topic.ids...), nil
}

// layoutOf reads a topic's partitions, trying until it succeeds or ctx ends.
func (p *Publisher) layoutOf(ctx context.Context, topic string) (layout, error) {
	p.mutex.Lock()
	known, ok := p.topics[topic]
	p.mutex.Unlock()
	if ok && time.Since(known.readAt) < layoutTTL {
		return known, nil
	}
	for try := 0; ; try++ {
		partitions, err := partitionsOf(ctx, p.client, topic)
		if err == nil {
			read := layout{readAt: time.Now()}
			for id, partition := range partitions {
				read.ids, read.leaders = append(read.ids, id), append(read.leaders, partition.Leader.ID)
			}
			p.mutex.Lock()
			p.topics[topic] = read
			p.mutex.Unlock()
			return read, nil
		}
		logRetry(p.logger, try, "cannot read the partitions of a topic, trying again", err, "topic", topic)
		p.observer.Retried()
		if !pause(ctx, try) {
			return layout{}, fmt.Errorf("read partitions of %s: %w", topic, context.Cause(ctx))
		}
	}
}

// forget has layouts read anew: a partition may have another leader.
func (p *Publisher) forget() {
	p.mutex.Lock()
	defer p.mutex.Unlock()
	clear(p.topics)
}

// Partitions lists the ids of a topic's partitions, 0 and up.
func Partitions(ctx context.Context, client *kafka.Client, topic string) ([]int, error) {
	partitions, err := partitionsOf(ctx, client, topic)
	ids := make([]int, len(partitions))
	for i := range ids {
		ids[i] = i
	}
	return ids, err
}

// partitionsOf lists a topic's partitions in the order of their ids.
func partitionsOf(ctx context.Context, client *kafka.Client, topic string) ([]kafka.Partition, error) {
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
		if len(t.Partitions) > 0 {
			slices.SortFunc(t.Partitions, func(a, b kafka.Partition) int { return cmp.Compare(a.ID, b.ID) })
			return t.Partitions, nil
		}
	}
	return nil, fmt.Errorf("topic %s: %w", topic, kafka.UnknownTopicOrPartition)
}

// publication is a way of publishing.
type publication struct {
	*Publisher
	// produce writes a batch for each of the partitions and says what went wrong with which.
	produce func(ctx context.Context, batches map[target][]kafka.Message) map[target]error
	insist  bool // try until it succeeds or ctx ends
	refused Refused
	// confirm fails if there must be no further try; nil: there may be any.
	confirm func(ctx context.Context) error
}

// publish writes what goes to each partition, in order, in batches of bounded size.
func (p publication) publish(ctx context.Context, targets map[target][]kafka.Message) error {
	limits := map[target]int{}
	for try := 0; len(targets) > 0; {
		batches := make(map[target][]kafka.Message, len(targets))
		for to, records := range targets {
			batches[to] = records[:countWithin(records, cmp.Or(limits[to], maxProduceBytes))]
		}
		if p.confirm != nil {
			if err := p.confirm(ctx); err != nil {
				return err
			}
		}
		began := time.Now()
		failures := p.produce(ctx, batches)
		var failed error
		for to, batch := range batches {
			switch err := failures[to]; {
			case err == nil:
				p.observer.Published(to.topic, len(batch), time.Since(began))
				targets[to] = targets[to][len(batch):]
			case isTooLarge(err) && len(batch) > 1:
				limits[to] = sizeOf(batch) / 2
			case isTooLarge(err):
				if err := p.replace(ctx, batch[0], err); err != nil {
					return err
				}
				targets[to] = targets[to][1:]
			default:
				failed = fmt.Errorf("publish to %s, partition %d: %w", to.topic, to.partition, err)
			}
			if len(targets[to]) == 0 {
				delete(targets, to)
			}
		}
		if failed == nil {
			try = 0
			continue
		}
		if !p.insist {
			return failed
		}
		logRetry(p.logger, try, "cannot publish, trying again", failed)
		p.observer.Retried()
		p.forget()
		if !pause(ctx, try) {
			return fmt.Errorf("%w: %w", failed, context.Cause(ctx))
		}
		try++
	}
	return nil
}

// replace writes what takes the place of a record that the broker will never take.
func (p publication) replace(ctx context.Context, record kafka.Message, err error) error {
	targets, routeErr := p.route(ctx, p.refused(record, err))
	if routeErr != nil {
		return routeErr
	}
	p.refused = drop
	return p.publish(ctx, targets)
}

func drop(kafka.Message, error) []kafka.Message { return nil }

func isTooLarge(err error) bool {
	return errors.Is(err, kafka.MessageSizeTooLarge) || errors.Is(err, kafka.RecordListTooLarge)
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
