// Package client is the other side of the worker: it produces requests and waits
// for what comes of them.
package client

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/segmentio/kafka-go"

	"tollgate/internal/stream"
	"tollgate/internal/wire"
)

// ErrNoAnswer says that no result came in time. The request may be decided later.
var ErrNoAnswer = errors.New("no answer in time")

// Client asks over Kafka.
type Client struct {
	broker    stream.Broker
	logger    *slog.Logger
	publisher *stream.Publisher
}

// New makes a client. It logs errors that it goes on trying after.
func New(broker stream.Broker, logger *slog.Logger) *Client {
	c := &Client{broker: broker, logger: logger}
	publishing := *broker.Client
	publishing.Transport = &watched{RoundTripper: broker.Client.Transport, client: c}
	broker.Client = &publishing
	c.publisher = stream.NewPublisher(broker, slog.New(slog.DiscardHandler), nobody{}) // watched logs
	return c
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
		partitions, err := stream.Partitions(ctx, c.broker.Client, topic)
		if err != nil {
			return err
		}
		// Results keep the customers' partitions, so one partition is all there is to read.
		r.partition = kafka.Murmur2Balancer{Consistent: true}.Balance(kafka.Message{Key: []byte(request.CustomerID)}, partitions...)
		r.positions = make([]int64, len(partitions))
		r.positions[r.partition], err = stream.LastOffset(ctx, c.broker.Client, topic, r.partition)
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
	ctx, giveUp := context.WithCancelCause(ctx)
	defer giveUp(nil)
	var refused error
	err := c.publisher.Publish(context.WithValue(ctx, giveUpKey{}, giveUp), records, func(record kafka.Message, err error) []kafka.Message {
		refused = fmt.Errorf("the broker refuses a record of %d bytes for %s: %w", len(record.Value), record.Topic, err)
		return nil
	})
	if refusal, ok := errors.AsType[*Refusal](context.Cause(ctx)); ok {
		return refusal
	}
	return errors.Join(err, refused)
}

// Reachable says whether the brokers answer, without trying for long. It fails with a *Refusal if they do not let
// this user in.
func (c *Client) Reachable(ctx context.Context) error {
	err := stream.Reachable(ctx, c.broker)
	if err == nil {
		return nil
	}
	if refusal := refusalOf(access{}, err); refusal != nil {
		return refusal
	}
	return err
}
