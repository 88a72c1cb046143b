package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/segmentio/kafka-go"

	"tollgate/internal/balance"
	"tollgate/internal/client"
	"tollgate/internal/settings"
	"tollgate/internal/wire"
)

const defaultBrokers = "127.0.0.1:9092"

// connection are the settings of every command: where Kafka is, and how to answer.
type connection struct {
	Kafka  settings.Kafka  `embed:"" prefix:"kafka-" group:"Kafka" set:"kafka_brokers_default= (127.0.0.1:9092, that of 'worker dev')"`
	Topics settings.Topics `embed:"" prefix:"topic-" group:"Topics"`
	Output string          `short:"o" default:"text" enum:"text,json" group:"Output" help:"text or json."`
	Log    settings.Log    `embed:"" prefix:"log-" group:"General" set:"log_level=warn"`
}

func (c *connection) check(problems *settings.Problems) {
	if len(c.Kafka.Brokers) == 0 {
		c.Kafka.Brokers = []string{defaultBrokers}
	}
	c.Kafka.Check(problems)
	c.Topics.Check(problems)
	c.Log.Check(problems)
}

func (c *connection) json() bool { return c.Output == "json" }

// connectTimeout bounds the first sign of life of a broker.
const connectTimeout = 5 * time.Second

// connect makes a client of brokers that answer.
func (c *connection) connect(ctx context.Context) (*client.Client, error) {
	logger := c.Log.Logger(os.Stderr)
	asker := client.New(c.Kafka.Broker(logger, c.Topics.Names().All()), logger)
	ctx, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	err := asker.Reachable(ctx)
	if _, refused := errors.AsType[*client.Refusal](err); err != nil && !refused {
		err = fmt.Errorf("%w\nis it running? 'go run ./cmd/worker dev' starts one; --kafka-brokers says where another is, --kafka-tls-… and --kafka-sasl-… what its listener wants", err)
	}
	return asker, err
}

// asking are the settings of commands that wait for one answer.
type asking struct {
	Customer   string        `short:"c" placeholder:"ID" group:"Request" help:"The customer."`
	Timeout    time.Duration `default:"5s" group:"Request" help:"How long to wait for the result."`
	RequestID  string        `placeholder:"ID" group:"Request" help:"Correlation id; one is made where none is given."`
	keys       `embed:""`
	connection `embed:""`
}

func (a *asking) check(problems *settings.Problems) {
	a.connection.check(problems)
	a.keys.check(problems)
	if a.Customer == "" {
		problems.Missing("customer", "whom the request is about")
	}
	if a.Timeout <= 0 {
		problems.Add("--timeout must be more than 0s")
	}
}

// ask sends the fields as one record and waits for its result. changes says that the answer may change something: then
// it is given an idempotency key, so that it does so once even if Kafka takes the record twice.
func (a *asking) ask(ctx context.Context, topic, resultTopic string, fields map[string]any, changes bool) (client.Answer, error) {
	asker, err := a.connect(ctx)
	if err != nil {
		return client.Answer{}, err
	}
	fields["customer_id"] = a.Customer
	value, err := json.Marshal(fields)
	if err != nil {
		return client.Answer{}, err
	}
	id := a.RequestID
	if id == "" {
		id = client.NewRequestID()
	}
	headers := []kafka.Header{client.Header(wire.HeaderRequestID, id)}
	key := a.of(changes)
	if key != "" {
		headers = append(headers, client.Header(wire.HeaderIdempotencyKey, key))
	}
	ctx, cancel := context.WithTimeout(ctx, a.Timeout)
	defer cancel()
	answer, err := asker.Ask(ctx, client.Request{Topic: topic, CustomerID: a.Customer, Value: value, Headers: headers}, resultTopic)
	if errors.Is(err, client.ErrNoAnswer) && key != "" {
		err = fmt.Errorf("%w\nit may still be decided; ask again with --idempotency-key %s, and it counts once", err, key)
	}
	return answer, err
}

// setText sets a field where there is a value.
func setText(fields map[string]any, name, value string) {
	if value != "" {
		fields[name] = value
	}
}

// setNumber sets a field to a number, its text untouched.
func setNumber(fields map[string]any, name, value string) {
	if value != "" {
		fields[name] = json.Number(value)
	}
}

// checkNumber notes a text that is no decimal number.
func checkNumber(flag, text string, problems *settings.Problems) {
	if text == "" {
		return
	}
	if _, err := balance.ParseDecimal(text); err != nil || !json.Valid([]byte(text)) {
		problems.Add("--%s: %q is not a number as JSON writes it, like 2 or 0.5", flag, text)
	}
}

// properties reads k=v pairs; a value that is JSON is taken as JSON, any other as text.
func properties(pairs map[string]string) map[string]any {
	if len(pairs) == 0 {
		return nil
	}
	out := map[string]any{}
	for key, value := range pairs {
		if json.Valid([]byte(value)) {
			out[key] = json.RawMessage(value)
		} else {
			out[key] = value
		}
	}
	return out
}
