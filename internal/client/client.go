// Package client is the other side of the worker: it produces requests and waits
// for what comes of them.
package client

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"tollgate/internal/kafka"
	"tollgate/internal/wire"
)

// ErrNoAnswer says that no result came in time. The request may be decided later.
var ErrNoAnswer = errors.New("no answer in time")

// Client asks over Kafka.
type Client struct {
	broker    kafka.Broker
	logger    *slog.Logger
	publisher *kafka.Publisher
	failing   atomic.Bool // what was sent last could not be written at first
}

// New makes a client. It logs errors that it goes on trying after.
func New(broker kafka.Broker, logger *slog.Logger) *Client {
	silent := slog.New(slog.DiscardHandler) // what failed is told once, and in our words
	return &Client{broker: broker, logger: logger, publisher: kafka.NewPublisher(broker, kafka.PublisherOptions{}, silent)}
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
	return kafka.Message{Topic: r.Topic, Partition: kafka.AnyPartition, Key: []byte(r.CustomerID), Value: r.Value, Headers: r.Headers}
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

// Ask sends one request and waits for its result on a topic. It fails with ErrNoAnswer if ctx ends before that,
// and with a *Refusal if Kafka will never take the request, or never hand out the result.
func (c *Client) Ask(ctx context.Context, request Request, resultTopic string) (Answer, error) {
	waiting, err := c.awaitResult(ctx, request, resultTopic)
	if err != nil {
		return Answer{}, unanswered(ctx, err)
	}
	sent := time.Now()
	if err := c.Send(ctx, []kafka.Message{request.Record()}); err != nil {
		return Answer{}, unanswered(ctx, err)
	}
	id := RequestID(request.Headers)
	for {
		records, err := waiting.fetch(ctx, waiting.partition)
		if err != nil {
			return Answer{}, unanswered(ctx, err)
		}
		for _, record := range records {
			if RequestID(record.Headers) == id {
				return Answer{record, time.Since(sent)}, nil
			}
		}
	}
}

// result is a listener of which one partition is read.
type result struct {
	*Listener
	partition int
}

// awaitResult notes where the result of a request that is not sent yet will be read from.
func (c *Client) awaitResult(ctx context.Context, request Request, topic string) (result, error) {
	r := result{Listener: &Listener{client: c, topic: topic}}
	err := c.insist(ctx, r.reading(), &r.outage, func() error {
		partitions, err := c.broker.Partitions(ctx, topic)
		if err != nil {
			return err
		}
		// Results keep the customers' partitions, so one partition is all there is to read.
		r.partition = kafka.PartitionFor([]byte(request.CustomerID), len(partitions))
		r.positions = make([]int64, len(partitions))
		r.positions[r.partition], err = c.broker.LastOffset(ctx, topic, r.partition)
		return err
	})
	return r, err
}

// unanswered is why there is no answer: an error that stays, or that ctx ended, and what was wrong until then.
func unanswered(ctx context.Context, err error) error {
	_, refused := errors.AsType[*Refusal](err)
	if ctx.Err() == nil || refused {
		return err
	}
	if errors.Is(err, errNothingCame) {
		return fmt.Errorf("%w; is a worker running?", ErrNoAnswer)
	}
	return fmt.Errorf("%w: %w", ErrNoAnswer, err)
}

// Send publishes records and returns when all are acknowledged. It tries until ctx ends. A record that the broker
// will never take is an error, and so is a *Refusal: a topic that does not exist, or may not be written to. Others
// of the records may have been written then.
func (c *Client) Send(ctx context.Context, records []kafka.Message) error {
	var refused error
	err := c.publisher.Publish(ctx, records, kafka.Delivery{
		Refused: func(record kafka.Message, err error) ([]kafka.Message, bool) {
			if refusal := refusalOf(access{verb: "write to", topic: record.Topic}, err); refusal != nil {
				refused = refusal
			} else {
				refused = fmt.Errorf("the broker refuses a record of %d bytes for %s: %w", len(record.Value), record.Topic, err)
			}
			return nil, true
		},
		Failed: func(err error) error { return c.failed(ctx, err) },
	})
	if err == nil && c.failing.CompareAndSwap(true, false) {
		c.logger.Info("Kafka takes records again")
	}
	return errors.Join(err, refused)
}

// failed ends the sending if no further try can help. Somebody who waits at a terminal must be told why; a worker would
// wait for an operator.
func (c *Client) failed(ctx context.Context, err error) error {
	to := access{verb: "write"} // no connection was made
	if topic, ok := errors.AsType[*kafka.TopicError](err); ok {
		to = access{verb: "write to", topic: topic.Topic}
	}
	if refusal := c.refusal(ctx, to, err); refusal != nil {
		return refusal
	}
	if c.failing.CompareAndSwap(false, true) {
		c.logger.Warn(fmt.Sprintf("cannot %v, trying again", to), "error", err)
	}
	return nil
}

// Reachable says whether the brokers answer, without trying for long. It fails with a *Refusal if they do not let
// this user in.
func (c *Client) Reachable(ctx context.Context) error {
	err := c.broker.Reachable(ctx)
	if err == nil {
		return nil
	}
	if refusal := refusalOf(access{}, err); refusal != nil {
		return refusal
	}
	return err
}
