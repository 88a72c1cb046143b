package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/segmentio/kafka-go"

	"tollgate/deploy"
	"tollgate/internal/client"
	"tollgate/internal/engine"
	"tollgate/internal/proctest"
	"tollgate/internal/servertest"
	"tollgate/internal/stream"
	"tollgate/internal/wire"
)

// deployment is what workers of a test share: topics, a key space, a catalogue.
type deployment struct {
	topics  engine.Topics
	catalog string
	flags   []string
	broker  stream.Broker
	client  *client.Client
}

const testPartitions = 4

func newDeployment(t *testing.T) *deployment {
	t.Helper()
	name := servertest.Unique("worker")
	d := &deployment{
		topics: engine.Topics{
			Checks: name + ".checks", CheckResults: name + ".check-results", UsageEvents: name + ".usage-events",
			Commands: name + ".commands", CommandResults: name + ".command-results", DeadLetters: name + ".dead-letters",
		},
		catalog: filepath.Join(t.TempDir(), "catalog.yaml"),
		broker:  servertest.Broker(t),
	}
	if err := os.WriteFile(d.catalog, deploy.Catalog, 0o600); err != nil {
		t.Fatal(err)
	}
	servertest.CreateTopics(t, d.broker, testPartitions, d.topics.All()...)
	d.client = client.New(d.broker, servertest.Logger(t))
	d.flags = []string{
		"run", "--kafka-brokers", servertest.KafkaAddr(t), "--redis-addrs", servertest.RedisAddr(t), "--catalog", d.catalog,
		"--kafka-group", name, "--redis-prefix", name + ":", "--kafka-session-timeout", "2s",
		"--topic-checks", d.topics.Checks, "--topic-check-results", d.topics.CheckResults,
		"--topic-usage-events", d.topics.UsageEvents, "--topic-commands", d.topics.Commands,
		"--topic-command-results", d.topics.CommandResults, "--topic-dead-letters", d.topics.DeadLetters,
	}
	return d
}

// start starts a worker; it returns before the worker is ready.
func (d *deployment) start(t *testing.T, flags ...string) (process *proctest.Process, httpAddr string) {
	t.Helper()
	httpAddr = proctest.FreeAddr(t)
	return proctest.Start(t, "worker", append(append(d.flags, "--http-addr", httpAddr), flags...)...), httpAddr
}

func (d *deployment) startReady(t *testing.T, flags ...string) (*proctest.Process, string) {
	t.Helper()
	process, httpAddr := d.start(t, flags...)
	process.AwaitReady(t, httpAddr)
	return process, httpAddr
}

const answerTimeout = time.Minute

// ask sends a request and decodes its result.
func (d *deployment) ask(t *testing.T, topic, resultTopic, customer, body string, result any, headers ...kafka.Header) client.Answer {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), answerTimeout)
	defer cancel()
	headers = append(headers, client.Header(wire.HeaderRequestID, client.NewRequestID()))
	answer, err := d.client.Ask(ctx, client.Request{Topic: topic, CustomerID: customer, Value: []byte(body), Headers: headers}, resultTopic)
	if err != nil {
		t.Fatalf("%s: %v", body, err)
	}
	if err := json.Unmarshal(answer.Record.Value, result); err != nil {
		t.Fatalf("%v: %s", err, answer.Record.Value)
	}
	return answer
}

func (d *deployment) check(t *testing.T, customer, body string, headers ...kafka.Header) (result wire.ResultRecord) {
	t.Helper()
	d.ask(t, d.topics.Checks, d.topics.CheckResults, customer, body, &result, headers...)
	return result
}

// commandResult is what the tests look at.
type commandResult struct {
	OK       bool                        `json:"ok"`
	Error    *wire.ErrorRecord           `json:"error"`
	Balances map[string]*wire.PoolRecord `json:"balances"`
}

// command sends a command that must be carried out.
func (d *deployment) command(t *testing.T, customer, body string, args ...any) (result commandResult) {
	t.Helper()
	body = fmt.Sprintf(body, args...)
	answer := d.ask(t, d.topics.Commands, d.topics.CommandResults, customer, body, &result)
	if !result.OK {
		t.Fatalf("%s: %s", body, answer.Record.Value)
	}
	return result
}
