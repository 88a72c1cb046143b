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

	"tollgate/internal/kafka"
	"tollgate/internal/wire"
)

// ErrNoAnswer says that no result came in time. The request may be decided later.
var ErrNoAnswer = errors.New("no answer in time; is a worker running?")

// Client asks over Kafka.
type Client struct {
	broker    kafka.Broker
	publisher *kafka.Publisher
}

// New makes a client.
func New(broker kafka.Broker, logger *slog.Logger) *Client {
	return &Client{broker, kafka.NewPublisher(broker, kafka.PublisherOptions{}, logger)}
}

// Request is a record for the checks or the commands topic.
type Request struct {
	Topic      string
	CustomerID string
	Value      []byte
	Headers    []kafka.Header // a request-id among them
}

// Record is the request as the record to publish.
func (r *Request) Record() kafka.Message {
	return kafka.Message{Topic: r.Topic, Partition: wire.AnyPartition, Key: []byte(r.CustomerID), Value: r.Value, Headers: r.Headers}
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
	partitions, err := c.broker.Partitions(ctx, resultTopic)
	if err != nil {
		return Answer{}, err
	}
	// Results keep the customers' partitions, so one partition is all there is to read.
	partition := kafka.PartitionFor([]byte(request.CustomerID), len(partitions))
	offset, err := c.broker.LastOffset(ctx, resultTopic, partition)
	if err != nil {
		return Answer{}, err
	}
	sent := time.Now()
	if err := c.Send(ctx, []kafka.Message{request.Record()}); err != nil {
		return Answer{}, err
	}
	id := RequestID(request.Headers)
	for {
		fetched, err := c.broker.FetchRecords(ctx, resultTopic, partition, offset, kafka.FetchMaxBytes)
		switch {
		case ctx.Err() != nil:
			return Answer{}, ErrNoAnswer
		case isTimeout(err): // the connection's deadline may come before the context ends
			continue
		case err != nil:
			return Answer{}, err
		}
		for _, record := range fetched.Messages {
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
	err := c.publisher.Publish(ctx, records, kafka.Delivery{Refused: func(record kafka.Message, err error) ([]kafka.Message, bool) {
		refused = fmt.Errorf("the broker refuses a record of %d bytes for %s: %w", len(record.Value), record.Topic, err)
		return nil, true
	}})
	return errors.Join(err, refused)
}

// Reachable says whether the brokers answer, without trying for long.
func (c *Client) Reachable(ctx context.Context) error { return c.broker.Reachable(ctx) }
