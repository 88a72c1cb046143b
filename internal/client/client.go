// Package client is the other side of the worker: it produces requests and waits
// for what comes of them.
package client

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"time"

	"github.com/segmentio/kafka-go"

	"tollgate/internal/stream"
	"tollgate/internal/wire"
)

// ErrNoAnswer says that no result came in time. The request may be decided later.
var ErrNoAnswer = errors.New("no answer in time; is a worker running?")

// Client asks over Kafka.
type Client struct {
	broker    stream.Broker
	publisher *stream.Publisher
}

// New makes a client.
func New(broker stream.Broker, logger *slog.Logger) *Client {
	return &Client{broker, stream.NewPublisher(broker, logger, nobody{})}
}

// nobody observes nothing: a client has no metrics.
type nobody struct{}

func (nobody) Fetched(string, int, int64)           {}
func (nobody) Dropped(string, int)                  {}
func (nobody) Published(string, int, time.Duration) {}
func (nobody) Settled(stream.Batch)                 {}
func (nobody) Retried()                             {}

// Request is a record for the checks or the commands topic.
type Request struct {
	Topic      string
	CustomerID string
	Value      []byte
	Headers    []kafka.Header // a request-id among them
}

// Record is the request as the record to publish.
func (r *Request) Record() kafka.Message {
	var key []byte
	if r.CustomerID != "" {
		key = []byte(r.CustomerID)
	}
	return kafka.Message{Topic: r.Topic, Partition: wire.AnyPartition, Key: key, Value: r.Value, Headers: r.Headers}
}

// NewRequestID makes an id that no other request bears.
func NewRequestID() string { return rand.Text()[:16] }

// Header makes a header of a text.
func Header(name, text string) kafka.Header { return kafka.Header{Key: name, Value: []byte(text)} }

// RequestID is the request-id header of a record, "" where it has none.
func RequestID(headers []kafka.Header) string {
	for _, header := range headers {
		if header.Key == wire.HeaderRequestID {
			return string(header.Value)
		}
	}
	return ""
}

// Answer is a result, and how long it took from the sending of its request.
type Answer struct {
	Record kafka.Message
	Took   time.Duration
}

// Ask sends one request and waits for its result on a topic. It fails with
// ErrNoAnswer where ctx ends before that.
func (c *Client) Ask(ctx context.Context, request Request, resultTopic string) (Answer, error) {
	partitions, err := stream.Partitions(ctx, c.broker.Client, resultTopic)
	if err != nil {
		return Answer{}, err
	}
	// Results keep the customers' partitions, so one partition is all there is to read.
	partition := (kafka.Murmur2Balancer{Consistent: true}).Balance(kafka.Message{Key: []byte(request.CustomerID)}, partitions...)
	offset, err := stream.LastOffset(ctx, c.broker.Client, resultTopic, partition)
	if err != nil {
		return Answer{}, err
	}
	sent := time.Now()
	if err := c.Send(ctx, []kafka.Message{request.Record()}); err != nil {
		return Answer{}, err
	}
	id := RequestID(request.Headers)
	for {
		fetched, err := stream.Fetch(ctx, c.broker.Client, resultTopic, partition, offset, stream.FetchMaxBytes)
		switch {
		case ctx.Err() != nil:
			return Answer{}, ErrNoAnswer
		case isTimeout(err): // the connection's deadline may come before the context ends
			continue
		case err != nil:
			return Answer{}, err
		}
		for _, record := range fetched.Records {
			if RequestID(record.Headers) == id {
				return Answer{record, time.Since(sent)}, nil
			}
		}
		offset = fetched.Next
	}
}

func isTimeout(err error) bool {
	var timeout net.Error
	return errors.As(err, &timeout) && timeout.Timeout()
}

// Send publishes records and returns when all are acknowledged. It tries until ctx
// ends; a record that the broker will never take is an error.
func (c *Client) Send(ctx context.Context, records []kafka.Message) error {
	var refused error
	err := c.publisher.Publish(ctx, records, func(record kafka.Message, err error) []kafka.Message {
		refused = fmt.Errorf("the broker refuses a record of %d bytes for %s: %w", len(record.Value), record.Topic, err)
		return nil
	})
	return errors.Join(err, refused)
}

// Reachable says whether the brokers answer, without trying for long.
func (c *Client) Reachable(ctx context.Context) error { return stream.Reachable(ctx, c.broker) }
