package main

import (
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/segmentio/kafka-go"

	"tollgate/internal/client"
	"tollgate/internal/proctest"
	"tollgate/internal/servertest"
	"tollgate/internal/wire"
)

const (
	killCustomers = 40
	killChecks    = 6_000
	killGrant     = 100 // less than the checks want, so that some are denied
	kills         = 4
)

// killed is what the topics show of the checks that were sent.
type killed struct {
	results map[string]string         // by request id, as they came first
	events  map[string]map[string]int // value by event id, by customer
	repeats int
}

func (k *killed) result(t *testing.T, record kafka.Message) {
	id := client.RequestID(record.Headers)
	if first, seen := k.results[id]; seen {
		k.repeats++
		if first != string(record.Value) {
			t.Errorf("two answers to %s:\n%s\n%s", id, first, record.Value)
		}
		return
	}
	k.results[id] = string(record.Value)
}

func (k *killed) event(t *testing.T, record kafka.Message) {
	var e wire.EventRecord
	if err := json.Unmarshal(record.Value, &e); err != nil {
		t.Fatal(err)
	}
	value, err := strconv.Atoi(string(e.Data.Draws[0].Value))
	if err != nil {
		t.Fatal(err)
	}
	if k.events[e.Subject] == nil {
		k.events[e.Subject] = map[string]int{}
	}
	k.events[e.Subject][e.ID] = value
}

// TestAKilledWorkerLosesNothing kills the worker with SIGKILL again and again in the
// middle of a stream of checks. Every request must have its one decision, and what
// was deducted must be what the events and the results say.
func TestAKilledWorkerLosesNothing(t *testing.T) {
	t.Run("at least once", func(t *testing.T) { killInMidStream(t, false) })
	t.Run("exactly once", func(t *testing.T) { killInMidStream(t, true) })
}

func killInMidStream(t *testing.T, exactlyOnce bool) {
	d := proctest.NewDeployment(t)
	delivery := fmt.Sprintf("--exactly-once=%t", exactlyOnce)
	worker, httpAddr := d.StartReady(t, delivery)
	names := make([]string, killCustomers)
	for i := range names {
		names[i] = fmt.Sprintf("customer-%d", i)
		d.Command(t, names[i], `{"type":"customer.put","customer_id":%q}`, names[i])
		d.Command(t, names[i], `{"type":"balance.grant","customer_id":%q,"feature_id":"images","amount":%d,"balance_id":"gift"}`, names[i], killGrant)
	}
	sending := make(chan error, 1)
	go func() { sending <- sendChecks(t, d, names) }()

	seen := &killed{results: map[string]string{}, events: map[string]map[string]int{}}
	results, events := servertest.NewDrain(t, d.Broker, d.Topics.CheckResults), servertest.NewDrain(t, d.Broker, d.Topics.UsageEvents)
	deadline := time.Now().Add(2 * proctest.AnswerTimeout)
	for n := 1; len(seen.results) < killChecks; {
		records, err := results.Next(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, record := range records {
			seen.result(t, record)
		}
		if n <= kills && len(seen.results) > n*killChecks/(kills+1) {
			worker.Kill()
			worker, httpAddr = d.Start(t, delivery)
			n++
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d of %d checks have a result", len(seen.results), killChecks)
		}
	}
	if err := <-sending; err != nil {
		t.Fatal(err)
	}
	worker.AwaitReady(t, httpAddr) // before that, SIGTERM just ends it
	if code := worker.Stop(t); code != 0 {
		t.Errorf("exit code %d at SIGTERM", code)
	}
	// Whatever was redelivered has been answered again by now.
	for _, read := range []struct {
		drain *servertest.Drain
		take  func(*testing.T, kafka.Message)
	}{{results, seen.result}, {events, seen.event}} {
		records, err := read.drain.Next(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, record := range records {
			read.take(t, record)
		}
	}
	t.Logf("%d kills, %d checks, %d results repeated", kills, killChecks, seen.repeats)
	if exactlyOnce {
		if seen.repeats > 0 {
			t.Errorf("%d results are repeated", seen.repeats)
		}
		t.Run("kcat sees everything once", func(t *testing.T) {
			kcatSeesOnce(t, d.Topics.CheckResults, killChecks)
			kcatSeesOnce(t, d.Topics.UsageEvents, killCustomers*killGrant)
		})
	}
	d.StartReady(t, delivery)
	seen.reconcile(t, d, names)
}

// kcatSeesOnce reads a topic as librdkafka does that reads only what is committed: so
// many records, no two alike.
func kcatSeesOnce(t *testing.T, topic string, want int) {
	t.Helper()
	output := kcat(t, servertest.KafkaAddr(t), "", "-C", "-t", topic, "-e", "-q", "-o", "beginning", "-X", "isolation.level=read_committed", "-f", "%s\n")
	lines := strings.Split(strings.TrimSpace(output), "\n")
	if distinct := len(slices.Compact(slices.Sorted(slices.Values(lines)))); len(lines) != want || distinct != want {
		t.Errorf("kcat sees %d records of %s, %d of them distinct, want %d", len(lines), topic, distinct, want)
	}
}

// sendChecks sends checks that deduct 1, each customer in turn.
func sendChecks(t *testing.T, d *proctest.Deployment, names []string) error {
	const batch = 100
	for from := 0; from < killChecks; from += batch {
		var records []kafka.Message
		for i := from; i < from+batch; i++ {
			name := names[i%len(names)]
			request := client.Request{
				Topic: d.Topics.Checks, CustomerID: name,
				Value:   fmt.Appendf(nil, `{"customer_id":%q,"feature_id":"images","send_event":true}`, name),
				Headers: []kafka.Header{client.Header(wire.HeaderRequestID, fmt.Sprintf("%s/%d", name, i))},
			}
			records = append(records, request.Record())
		}
		if err := d.Client.Send(t.Context(), records); err != nil {
			return err
		}
	}
	return nil
}

// reconcile holds results, events and Redis against each other.
func (k *killed) reconcile(t *testing.T, d *proctest.Deployment, names []string) {
	allowed := map[string]int{}
	for _, text := range k.results {
		var r wire.ResultRecord
		if err := json.Unmarshal([]byte(text), &r); err != nil {
			t.Fatal(err)
		}
		if r.Allowed {
			allowed[r.CustomerID]++
		} else if r.Code != "insufficient_balance" {
			t.Errorf("unexpected: %s", text)
		}
	}
	for _, name := range names {
		sum := 0
		for _, value := range k.events[name] {
			sum += value
		}
		usage := d.Command(t, name, `{"type":"customer.get","customer_id":%q}`, name).Balances["images"].Usage
		// 150 checks each against a grant of 100: all of it is used.
		if string(usage) != strconv.Itoa(killGrant) || allowed[name] != killGrant || sum != killGrant {
			t.Errorf("%s: usage %s, allowed %d, events %d; want %d of each", name, usage, allowed[name], sum, killGrant)
		}
	}
}
