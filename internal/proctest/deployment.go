package proctest

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"tollgate/deploy"
	"tollgate/internal/client"
	"tollgate/internal/kafka"
	"tollgate/internal/servertest"
	"tollgate/internal/wire"
)

// Deployment is what workers of a test share: topics, a key space, a catalogue.
type Deployment struct {
	Group      string // of the workers; their keys in Redis begin with it and a colon
	Topics     wire.Topics
	TopicFlags []string // name the topics, to worker and producer
	Catalog    string   // the file
	Brokers    string   // where workers find Kafka
	Broker     kafka.Broker
	Client     *client.Client
	flags      []string
}

// Partitions is how many every topic has.
const Partitions = 4

// NewDeployment makes topics, and a catalogue file like the example, for workers on the
// servers of the tests.
func NewDeployment(t testing.TB) *Deployment {
	t.Helper()
	return NewDeploymentOn(t, servertest.Broker(t), "--redis-addrs", servertest.RedisAddr(t))
}

// NewDeploymentOn is NewDeployment on other servers; redisFlags say where Redis is.
func NewDeploymentOn(t testing.TB, broker kafka.Broker, redisFlags ...string) *Deployment {
	t.Helper()
	name := servertest.Unique("worker")
	d := &Deployment{
		Group: name,
		Topics: wire.Topics{
			Checks: name + ".checks", CheckResults: name + ".check-results", UsageEvents: name + ".usage-events",
			Commands: name + ".commands", CommandResults: name + ".command-results", DeadLetters: name + ".dead-letters",
		},
		Catalog: filepath.Join(t.TempDir(), "catalog.yaml"),
		Broker:  broker,
		Brokers: strings.Join(broker.Addresses, ","),
	}
	if err := os.WriteFile(d.Catalog, deploy.Catalog, 0o600); err != nil {
		t.Fatal(err)
	}
	servertest.CreateTopics(t, d.Broker, Partitions, d.Topics.All()...)
	d.Client = client.New(d.Broker, servertest.Logger(t))
	d.flags = append([]string{
		"run", "--catalog", d.Catalog,
		"--kafka-group", name, "--redis-prefix", name + ":", "--kafka-session-timeout", "2s",
	}, redisFlags...)
	d.TopicFlags = []string{
		"--topic-checks", d.Topics.Checks, "--topic-check-results", d.Topics.CheckResults,
		"--topic-usage-events", d.Topics.UsageEvents, "--topic-commands", d.Topics.Commands,
		"--topic-command-results", d.Topics.CommandResults, "--topic-dead-letters", d.Topics.DeadLetters,
	}
	return d
}

// Start starts a worker; it returns before the worker is ready.
func (d *Deployment) Start(t testing.TB, flags ...string) (process *Process, httpAddr string) {
	t.Helper()
	httpAddr = FreeAddr(t)
	return Start(t, "worker", slices.Concat(d.flags, d.TopicFlags, []string{"--kafka-brokers", d.Brokers, "--http-addr", httpAddr}, flags)...), httpAddr
}

// StartReady starts a worker and waits until it is ready.
func (d *Deployment) StartReady(t testing.TB, flags ...string) (*Process, string) {
	t.Helper()
	process, httpAddr := d.Start(t, flags...)
	process.AwaitReady(t, httpAddr)
	return process, httpAddr
}

// AnswerTimeout bounds the waiting for one result.
const AnswerTimeout = time.Minute

// Ask sends a request and decodes its result.
func (d *Deployment) Ask(t testing.TB, topic, resultTopic, customer, body string, result any, headers ...kafka.Header) client.Answer {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), AnswerTimeout)
	defer cancel()
	headers = append(headers, client.Header(wire.HeaderRequestID, client.NewRequestID()))
	answer, err := d.Client.Ask(ctx, client.Request{Topic: topic, CustomerID: customer, Value: []byte(body), Headers: headers}, resultTopic)
	if err != nil {
		t.Fatalf("%s: %v", body, err)
	}
	if err := json.Unmarshal(answer.Record.Value, result); err != nil {
		t.Fatalf("%v: %s", err, answer.Record.Value)
	}
	return answer
}

// Check sends a check and returns its result.
func (d *Deployment) Check(t testing.TB, customer, body string, headers ...kafka.Header) (result wire.ResultRecord) {
	t.Helper()
	d.Ask(t, d.Topics.Checks, d.Topics.CheckResults, customer, body, &result, headers...)
	return result
}

// CommandResult is what tests look at of the result of a command.
type CommandResult struct {
	OK       bool                        `json:"ok"`
	Error    *wire.ErrorRecord           `json:"error"`
	Balances map[string]*wire.PoolRecord `json:"balances"`
}

// Command sends a command that must be carried out.
func (d *Deployment) Command(t testing.TB, customer, body string, args ...any) (result CommandResult) {
	t.Helper()
	body = fmt.Sprintf(body, args...)
	answer := d.Ask(t, d.Topics.Commands, d.Topics.CommandResults, customer, body, &result)
	if !result.OK {
		t.Fatalf("%s: %s", body, answer.Record.Value)
	}
	return result
}

// AwaitRecords reads a topic on until so many records have come.
func (d *Deployment) AwaitRecords(t testing.TB, drain *servertest.Drain, n int) (records []kafka.Message) {
	t.Helper()
	for deadline := time.Now().Add(AnswerTimeout); len(records) < n; {
		more, err := drain.Next(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if records = append(records, more...); time.Now().After(deadline) {
			t.Fatalf("%d of %d records came", len(records), n)
		}
	}
	return records
}
