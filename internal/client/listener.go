package client

import (
	"context"
	"math/rand/v2"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"tollgate/internal/kafka"
)

// Listener follows all partitions of a topic.
type Listener struct {
	broker    kafka.Broker
	topic     string
	positions []int64
}

// Listen notes where the topic's partitions begin, or end; Run reads from there on.
func (c *Client) Listen(ctx context.Context, topic string, fromBeginning bool) (*Listener, error) {
	partitions, err := c.broker.Partitions(ctx, topic)
	if err != nil {
		return nil, err
	}
	edge := c.broker.LastOffset
	if fromBeginning {
		edge = c.broker.FirstOffset
	}
	l := &Listener{broker: c.broker, topic: topic, positions: make([]int64, len(partitions))}
	for _, partition := range partitions {
		if l.positions[partition], err = edge(ctx, topic, partition); err != nil {
			return nil, err
		}
	}
	return l, nil
}

// retryPause is the longest wait after a fetch that failed.
const retryPause = time.Second

// Run gives every record to visit, one at a time, until ctx ends. While a broker is
// away it goes on trying.
func (l *Listener) Run(ctx context.Context, visit func(kafka.Message)) {
	var mutex sync.Mutex
	var group errgroup.Group
	for partition, offset := range l.positions {
		group.Go(func() error {
			for ctx.Err() == nil {
				fetched, err := l.broker.FetchRecords(ctx, l.topic, partition, offset, kafka.FetchMaxBytes)
				if err != nil {
					select {
					case <-ctx.Done():
					case <-time.After(retryPause/2 + rand.N(retryPause/2)):
					}
					continue
				}
				offset = fetched.Next
				mutex.Lock()
				for _, record := range fetched.Messages {
					visit(record)
				}
				mutex.Unlock()
			}
			return nil
		})
	}
	_ = group.Wait()
}
