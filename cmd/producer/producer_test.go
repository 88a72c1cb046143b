package main

import (
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/segmentio/kafka-go"

	"tollgate/internal/proctest"
	"tollgate/internal/servertest"
	"tollgate/internal/wire"
)

func TestMain(m *testing.M) {
	os.Exit(proctest.Main(m))
}

// shell runs the producer against the worker of a test.
type shell struct {
	t     *testing.T
	flags []string
}

func newShell(t *testing.T) *shell {
	d := proctest.NewDeployment(t)
	d.StartReady(t)
	return &shell{t, append([]string{"--kafka-brokers", servertest.KafkaAddr(t)}, d.TopicFlags...)}
}

// run runs a command, which must end with the code.
func (s *shell) run(code int, args ...string) proctest.Output {
	s.t.Helper()
	return s.runWith("", code, args...)
}

func (s *shell) runWith(stdin string, code int, args ...string) proctest.Output {
	s.t.Helper()
	out := proctest.RunWith(s.t, []string{"NO_COLOR=1"}, stdin, "producer", slices.Concat(args, s.flags)...)
	if out.Code != code {
		s.t.Fatalf("producer %s: exit code %d, want %d\n%s%s", strings.Join(args, " "), out.Code, code, out.Stdout, out.Stderr)
	}
	return out
}

func (s *shell) mustSay(out proctest.Output, wants ...string) {
	s.t.Helper()
	for _, want := range wants {
		if !strings.Contains(out.Stdout, want) {
			s.t.Errorf("no %q in\n%s", want, out.Stdout)
		}
	}
}

func TestACustomerIsSetUpAndCheckedFromTheCommandLine(t *testing.T) {
	s := newShell(t)
	s.mustSay(s.run(0, "command", "customer.put", "--customer", "acme", "--name", "Acme"), "✔ done", "5 of 5 left")
	s.mustSay(s.run(0, "attach", "--customer", "acme", "--plan", "pro"), "100 of 100 left", "200 of 200 left")
	s.mustSay(s.run(0, "grant", "--customer", "acme", "--feature", "messages", "--amount", "10", "--balance-id", "gift"), "110 of 110 left", "gift")
	s.mustSay(s.run(0, "command", "entity.create", "--customer", "acme", "--entity", "ann", "--feature", "seats"), "2 of 3 left", "usage event")
	s.mustSay(s.run(0, "track", "--customer", "acme", "--feature", "images", "--value", "4"), "asked for 4 images, took 4 images (96 left)", "96 of 100 left")
	s.mustSay(s.run(0, "check", "--customer", "acme", "--feature", "messages", "--required-balance", "30", "--send-event"), "✔ allowed", "included", "80 of 110 left", "usage event", "answered in")
	s.mustSay(s.run(0, "check", "--customer", "acme", "--feature", "sso"), "included in pro")
	s.mustSay(s.run(3, "check", "--customer", "acme", "--feature", "messages", "--required-balance", "81", "--with-preview"), "✘ denied", "insufficient_balance", "Upgrade to Team", "Message pack")
	s.mustSay(s.run(1, "check", "--customer", "nobody", "--feature", "messages"), "✘ error", "customer_not_found", "customer.put")
	s.mustSay(s.run(1, "command", "entity.create", "--customer", "nobody-else", "--entity", "x", "--feature", "seats"), "customer_not_found")
	s.mustSay(s.run(0, "balances", "--customer", "acme"), "Acme", "plans      pro", "includes   sso", "entities   ann", "gift")
}

func TestTheAnswersOfACheckAreJSONOnRequest(t *testing.T) {
	s := newShell(t)
	s.run(0, "command", "customer.put", "--customer", "acme")
	var result wire.ResultRecord
	out := s.run(0, "check", "--customer", "acme", "--feature", "messages", "--send-event", "--property", "model=small", "--property", "n=3", "--request-id", "mine", "-o", "json")
	if err := json.Unmarshal([]byte(out.Stdout), &result); err != nil {
		t.Fatal(err)
	}
	if result.RequestID != "mine" || !result.Allowed || result.Balance.Remaining != "4" {
		t.Errorf("got %s", out.Stdout)
	}
	usage := s.run(0, "tail", "usage", "--customer", "acme", "--from-beginning", "--count", "1", "-o", "json")
	s.mustSay(usage, `"properties":{"model":"small","n":3}`, `"request_id":"mine"`)
	s.mustSay(s.run(0, "tail", "results", "--from-beginning", "--count", "1"), "allowed", "4 messages left")
	s.mustSay(s.run(0, "tail", "command-results", "--from-beginning", "--count", "1"), "customer.put", "done")
}

func TestTheSameIdempotencyKeyDeductsOnce(t *testing.T) {
	s := newShell(t)
	s.run(0, "command", "customer.put", "--customer", "acme")
	for range 2 {
		s.mustSay(s.run(0, "check", "--customer", "acme", "--feature", "messages", "--send-event", "--idempotency-key", "k"), "4 of 5 left")
	}
}

func TestLinesAreSentAndBadOnesNamed(t *testing.T) {
	s := newShell(t)
	s.run(0, "command", "customer.put", "--customer", "acme")
	lines := `{"customer_id":"acme","feature_id":"messages","send_event":true}
{not json

{"customer_id":"acme","feature_id":"messages","required_balance":7,"send_event":true}
{"customer_id":"acme"}
`
	out := s.runWith(lines, 1, "send", "--wait")
	s.mustSay(out, "2 requests sent, 2 bad lines left out, 2 answered", "included", "insufficient_balance")
	for _, want := range []string{"line 2: the record is no JSON object", "line 5:", "feature_id is missing"} {
		if !strings.Contains(out.Stderr, want) {
			t.Errorf("no %q in\n%s", want, out.Stderr)
		}
	}
	file := t.TempDir() + "/lines"
	if err := os.WriteFile(file, []byte(lines), 0o600); err != nil {
		t.Fatal(err)
	}
	if out := s.run(1, "send", file, "--strict"); !strings.Contains(out.Stderr, "ended at line 2 (--strict); 1 requests were sent") {
		t.Errorf("got %s", out.Stderr)
	}
}

func TestDeadLettersAreSentBackOnce(t *testing.T) {
	d := proctest.NewDeployment(t)
	d.StartReady(t)
	s := &shell{t, append([]string{"--kafka-brokers", servertest.KafkaAddr(t), "--group", servertest.Unique("replay")}, d.TopicFlags...)}
	dead := servertest.NewDrain(t, d.Broker, d.Topics.DeadLetters)
	bad := []kafka.Message{
		{Topic: d.Topics.Checks, Partition: 1, Key: []byte("k"), Value: []byte("{not json"), Headers: []kafka.Header{{Key: "dlq-topic", Value: []byte("forged")}}},
		{Topic: d.Topics.Commands, Partition: -1, Key: []byte{0xff}, Value: []byte{0, 1}},
		wire.DeadLetter(d.Topics.DeadLetters, &kafka.Message{Topic: "elsewhere", Key: []byte("k"), Value: []byte("x")}, "why", 1),
	}
	if err := d.Client.Send(t.Context(), bad); err != nil {
		t.Fatal(err)
	}
	d.AwaitRecords(t, dead, 3)
	s.mustSay(s.run(0, "replay-dead-letters", "--dry-run"), "2 dead letters sent back, 1 left alone (not yet: --dry-run)", "elsewhere, which is no topic of requests")
	s.mustSay(s.run(0, "replay-dead-letters"), "2 dead letters sent back, 1 left alone", "no JSON object")
	again := d.AwaitRecords(t, dead, 2) // as unreadable as before
	for _, record := range again {
		if string(record.Value) == "{not json" && (string(record.Key) != "k" || string(record.Headers[0].Value) != "forged") {
			t.Errorf("it came back as %+v", record)
		}
	}
	s.mustSay(s.run(0, "replay-dead-letters", "-o", "json"), `"left":0`)
}

func TestALoadIsMeasured(t *testing.T) {
	s := newShell(t)
	out := s.run(0, "load", "--rate", "500", "--duration", "1s", "--customers", "20", "--skew", "1", "-o", "json")
	var summary loaded
	if err := json.Unmarshal([]byte(out.Stdout), &summary); err != nil {
		t.Fatal(err)
	}
	if summary.Sent != 500 || summary.Answered != 500 || summary.Missing != 0 || summary.Codes["included"] != 500 || summary.Latency.P50 <= 0 || summary.Latency.Max < summary.Latency.P99 {
		t.Errorf("got %+v", summary)
	}
}

func TestARequestWithoutAnAnswerEndsWithCode4(t *testing.T) {
	d := proctest.NewDeployment(t) // and no worker
	s := &shell{t, append([]string{"--kafka-brokers", servertest.KafkaAddr(t)}, d.TopicFlags...)}
	if out := s.run(4, "check", "--customer", "acme", "--feature", "messages", "--timeout", "200ms"); !strings.Contains(out.Stderr, "is a worker running?") {
		t.Errorf("got %s", out.Stderr)
	}
}

func TestABrokerThatIsNotThereIsSaidSo(t *testing.T) {
	began := time.Now()
	out := proctest.Run(t, nil, "producer", "check", "--customer", "a", "--feature", "b", "--kafka-brokers", proctest.FreeAddr(t))
	if out.Code != 1 || !strings.Contains(out.Stderr, "worker dev") || time.Since(began) > 20*time.Second {
		t.Errorf("exit code %d after %v\n%s", out.Code, time.Since(began), out.Stderr)
	}
}

func TestMissingFlagsAreNamedAllAtOnce(t *testing.T) {
	for command, flags := range map[string][]string{
		"check": {"--customer", "--feature"}, "attach": {"--customer", "--plan"}, "grant": {"--customer", "--feature", "--amount"},
		"track": {"--customer", "--event-name"}, "balances": {"--customer"},
		"lock": {"--customer", "--feature"},
	} {
		out := proctest.Run(t, nil, "producer", command)
		for _, flag := range flags {
			if out.Code != 2 || !strings.Contains(out.Stderr, flag) {
				t.Errorf("producer %s: exit code %d, no %s in\n%s", command, out.Code, flag, out.Stderr)
			}
		}
	}
}

func TestASkewedPickerFavoursTheFirst(t *testing.T) {
	counts := map[int]int{}
	pick := newPicker(100, 1.5)
	for range 10_000 {
		counts[pick()]++
	}
	if counts[0] < 10*counts[20] || counts[0] < 2000 {
		t.Error(fmt.Sprint("counts of 0, 20: ", counts[0], counts[20]))
	}
}
