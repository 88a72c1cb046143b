package client

import (
	"context"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/segmentio/kafka-go"
	"golang.org/x/sync/errgroup"

	"tollgate/internal/stream"
)

// Listener follows all partitions of a topic.
type Listener struct {
	client    *kafka.Client
	topic     string
	positions []int64
}

// Listen notes where the topic's partitions begin, or end; Run reads from there on.
func (c *Client) Listen(ctx context.Context, topic string, fromBeginning bool) (*Listener, error) {
	partitions, err := stream.Partitions(ctx, c.broker.Client, topic)
	if err != nil {
		return nil, err
	}
	edge := stream.LastOffset
	if fromBeginning {
		edge = stream.FirstOffset
	}
	l := &Listener{client: c.broker.Client, topic: topic, positions: make([]int64, len(partitions))}
	for _, partition := range partitions {
		if l.positions[partition], err = edge(ctx, c.broker.Client, topic, partition); err != nil {
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
				fetched, err := stream.Fetch(ctx, l.client, l.topic, partition, offset, stream.FetchMaxBytes)
				if err != nil {
					select {
					case <-ctx.Done():
					case <-time.After(retryPause/2 + rand.N(retryPause/2)):
					}
					continue
				}
				offset = fetched.Next
				mutex.Lock()
				for _, record := range fetched.Records {
					visit(record)
				}
				mutex.Unlock()
			}
			return nil
		})
	}
	_ = group.Wait()
}
