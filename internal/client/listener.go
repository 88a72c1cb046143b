package client

import (
	"context"
	"errors"
	"fmt"
	"sync"

	kafkago "github.com/segmentio/kafka-go"
	"golang.org/x/sync/errgroup"

	"tollgate/internal/kafka"
)

// Listener follows all partitions of a topic.
type Listener struct {
	client    *Client
	topic     string
	positions []int64
	outage    outage
}

// Listen notes where the topic's partitions begin, or end; Run reads from there on. It fails with a *Refusal if the
// topic does not exist, or may not be read.
func (c *Client) Listen(ctx context.Context, topic string, fromBeginning bool) (*Listener, error) {
	l := &Listener{client: c, topic: topic}
	edge := c.broker.LastOffset
	if fromBeginning {
		edge = c.broker.FirstOffset
	}
	err := c.insist(ctx, l.reading(), &l.outage, func() error {
		partitions, err := c.broker.Partitions(ctx, topic)
		if err != nil {
			return err
		}
		l.positions = make([]int64, len(partitions))
		for _, partition := range partitions {
			if l.positions[partition], err = edge(ctx, topic, partition); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return l, nil
}

func (l *Listener) reading() access { return access{verb: "read", topic: l.topic} }

// Run gives every record to visit, one at a time, until ctx ends; then it returns nil. While a broker is away it goes
// on trying, and says so in the log. It fails with a *Refusal if the topic is gone, or may no longer be read, and
// if what it was to read next is no longer there, nor anything behind it.
func (l *Listener) Run(ctx context.Context, visit func(kafka.Message)) error {
	var mutex sync.Mutex
	group, running := errgroup.WithContext(ctx)
	for partition := range l.positions {
		group.Go(func() error {
			for running.Err() == nil {
				records, err := l.fetch(running, partition)
				if err != nil {
					return err
				}
				mutex.Lock()
				for _, record := range records {
					if running.Err() == nil {
						visit(record)
					}
				}
				mutex.Unlock()
			}
			return nil
		})
	}
	err := group.Wait()
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// fetch reads on in a partition.
func (l *Listener) fetch(ctx context.Context, partition int) (records []kafka.Message, err error) {
	err = l.client.insist(ctx, l.reading(), &l.outage, func() error {
		fetched, err := l.client.broker.FetchRecords(ctx, l.topic, partition, l.positions[partition], kafka.FetchMaxBytes)
		switch {
		case errors.Is(err, kafkago.OffsetOutOfRange):
			return l.resume(ctx, partition)
		case err != nil:
			return err
		}
		l.positions[partition], records = fetched.Next, fetched.Messages
		return nil
	})
	return records, err
}

// resume goes on after records that Kafka has deleted before they were read, because they were older than the topic's
// retention. A partition that ends before the position was truncated, or the topic was made anew: then nobody can say
// what was read of it and what was not.
func (l *Listener) resume(ctx context.Context, partition int) error {
	first, err := l.client.broker.FirstOffset(ctx, l.topic, partition)
	if err != nil {
		return err
	}
	position := l.positions[partition]
	if position < first {
		l.client.logger.Warn("records were deleted before they were read", "topic", l.topic, "partition", partition, "records", first-position)
		l.positions[partition] = first
		return nil
	}
	end, err := l.client.broker.LastOffset(ctx, l.topic, partition)
	if err != nil || position <= end { // it grows again
		return err
	}
	return &Refusal{
		text: fmt.Sprintf("topic %s was truncated or made anew: partition %d ends at offset %d, and %d was to be read next; start again", l.topic, partition, end, position),
		err:  kafkago.OffsetOutOfRange,
	}
}
