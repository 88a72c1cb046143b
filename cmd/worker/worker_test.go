package main

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/segmentio/kafka-go"

	"tollgate/internal/client"
	"tollgate/internal/proctest"
	"tollgate/internal/servertest"
	"tollgate/internal/wire"
)

func TestDevOnceShowsItsDemoAndEnds(t *testing.T) {
	out := proctest.Run(t, []string{"NO_COLOR=1"}, "worker", "dev", "--once", "--dev-kafka-addr", "127.0.0.1:0", "--dev-redis-addr", "127.0.0.1:0", "--http-addr", "127.0.0.1:0")
	if out.Code != 0 {
		t.Fatalf("exit code %d\n%s%s", out.Code, out.Stdout, out.Stderr)
	}
	for _, check := range demoChecks {
		if !strings.Contains(out.Stdout, string(check.want)) {
			t.Errorf("no %s in\n%s", check.want, out.Stdout)
		}
	}
	if strings.Contains(out.Stdout, "\x1b[") {
		t.Errorf("colours in spite of NO_COLOR:\n%q", out.Stdout)
	}
}

func TestDevWithoutARedisServerUsesItsOwn(t *testing.T) {
	out := proctest.Run(t, []string{"PATH=" + t.TempDir()}, "worker", "dev", "--once", "--dev-kafka-addr", "127.0.0.1:0", "--dev-redis-addr", "127.0.0.1:0", "--http-addr", "127.0.0.1:0")
	if out.Code != 0 || !strings.Contains(out.Stdout, "in-process") {
		t.Fatalf("exit code %d\n%s%s", out.Code, out.Stdout, out.Stderr)
	}
}

func TestDevNamesTheFlagOfAnAddressThatIsTaken(t *testing.T) {
	taken := "127.0.0.1:" + strings.Split(servertest.RedisAddr(t), ":")[1]
	for _, flag := range []string{"--dev-kafka-addr", "--dev-redis-addr"} {
		args := []string{"dev", "--once", "--http-addr", "127.0.0.1:0", "--dev-kafka-addr", "127.0.0.1:0", "--dev-redis-addr", "127.0.0.1:0"}
		args[slices.Index(args, flag)+1] = taken
		out := proctest.Run(t, nil, "worker", args...)
		if out.Code != 1 || !strings.Contains(out.Stderr, flag) || !strings.Contains(out.Stderr, "in use") {
			t.Errorf("%s: exit code %d\n%s", flag, out.Code, out.Stderr)
		}
	}
}

func TestBadSettingsAreNamedAllAtOnce(t *testing.T) {
	out := proctest.Run(t, []string{"TOLLGATE_BATCH_MAX=many"}, "worker", "run",
		"--kafka-brokers", "nowhere", "--idempotency-window", "soon", "--log-level", "loud", "--kafka-sasl-username", "me")
	if out.Code != 2 {
		t.Errorf("exit code %d", out.Code)
	}
	for _, problem := range []string{"--kafka-brokers", "--redis-addrs", "--catalog", "--batch-max", "--idempotency-window", "--log-level", "--kafka-sasl-mechanism"} {
		if !strings.Contains(out.Stderr, problem) {
			t.Errorf("%s is not named in\n%s", problem, out.Stderr)
		}
	}
}

func TestFlagsGoOverEnvironmentOverFile(t *testing.T) {
	folder := t.TempDir()
	file := folder + "/settings.yaml"
	if err := os.WriteFile(file, []byte("log-level: from-file\nbatch-max: 1000000\nhttp-addr: from-file\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	out := proctest.Run(t, []string{"TOLLGATE_LOG_LEVEL=from-environment", "TOLLGATE_HTTP_ADDR=from-environment"}, "worker", "run",
		"--config", file, "--http-addr", "from-flag")
	for _, want := range []string{`--http-addr: "from-flag"`, `--log-level: "from-environment"`, "--batch-max must be from 1"} {
		if !strings.Contains(out.Stderr, want) {
			t.Errorf("no %s in\n%s", want, out.Stderr)
		}
	}
}

func TestASettingsFileWithAKeyThatIsNoSettingIsRefused(t *testing.T) {
	file := t.TempDir() + "/settings.yaml"
	if err := os.WriteFile(file, []byte("kafka-broker: localhost:9092\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	out := proctest.Run(t, nil, "worker", "run", "--config", file)
	if out.Code != 2 || !strings.Contains(out.Stderr, `"kafka-broker"`) {
		t.Errorf("exit code %d\n%s", out.Code, out.Stderr)
	}
}

func TestASecretMayLieInAFile(t *testing.T) {
	out := proctest.Run(t, nil, "worker", "run", "--redis-password-file", "/does/not/exist")
	if out.Code != 2 || !strings.Contains(out.Stderr, "--redis-password-file") {
		t.Errorf("exit code %d\n%s", out.Code, out.Stderr)
	}
}

func TestMissingTopicsAreNamedAndCreated(t *testing.T) {
	d := proctest.NewDeployment(t)
	topic := servertest.Unique("not-there")
	process, _ := d.Start(t, "--topic-dead-letters", topic)
	if code := process.Wait(t); code != 1 || !strings.Contains(process.Output(), topic) || !strings.Contains(process.Output(), "worker topics create") {
		t.Errorf("exit code %d\n%s", code, process.Output())
	}
	args := []string{"topics", "create", "--kafka-brokers", servertest.KafkaAddr(t), "--partitions", "3", "--replication-factor", "1", "--topic-dead-letters", topic}
	for i := 0; i < len(d.TopicFlags); i += 2 {
		if d.TopicFlags[i] != "--topic-dead-letters" {
			args = append(args, d.TopicFlags[i:i+2]...)
		}
	}
	out := proctest.Run(t, nil, "worker", args...)
	if out.Code != 0 || !strings.Contains(out.Stdout, "created") || !strings.Contains(out.Stdout, fmt.Sprintf("--partitions %d", proctest.Partitions)) {
		t.Errorf("exit code %d\n%s%s", out.Code, out.Stdout, out.Stderr)
	}
}

func TestHealthReadinessAndMetrics(t *testing.T) {
	d := proctest.NewDeployment(t)
	_, httpAddr := d.StartReady(t)
	d.Command(t, "acme", `{"type":"customer.put","customer_id":"acme"}`)
	d.Check(t, "acme", `{"customer_id":"acme","feature_id":"messages","send_event":true}`)
	for path, wants := range map[string][]string{
		"/healthz": {"ok"},
		"/readyz":  {"kafka: ok", "redis: ok", "group: ok", "partitions: ok"},
		"/metrics": {
			`tollgate_checks_total{allowed="true",code="included"} 1`, `tollgate_commands_total{ok="true",type="customer.put"} 1`,
			"tollgate_usage_events_total 1", "tollgate_check_latency_seconds_count 1", "tollgate_batch_size_count", "tollgate_redis_script_seconds_count",
			"tollgate_kafka_publish_seconds_count{topic=", "tollgate_kafka_lag{partition=", "tollgate_replays_total 0", "tollgate_in_flight 0",
			"tollgate_partitions_blocked 0", "tollgate_catalog_info{version=", "tollgate_build_info{", "go_goroutines", "process_cpu_seconds_total",
		},
	} {
		body := get(t, "http://"+httpAddr+path)
		for _, want := range wants {
			if !strings.Contains(body, want) {
				t.Errorf("%s has no %q:\n%s", path, want, body)
			}
		}
	}
}

func get(t *testing.T, url string) string {
	t.Helper()
	response, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(body)
}

func TestSpringsReplyHeadersAreHonoured(t *testing.T) {
	d := proctest.NewDeployment(t)
	replies := servertest.Unique("replies")
	servertest.CreateTopics(t, d.Broker, proctest.Partitions, replies)
	d.StartReady(t, "--reply-topics", replies)
	const partition = 3
	drain := servertest.NewDrain(t, d.Broker, replies)
	correlation := []byte{0, 1, 0xfe, 0xff}
	headers := []kafka.Header{
		{Key: "kafka_correlationId", Value: correlation}, client.Header("kafka_replyTopic", replies),
		{Key: "kafka_replyPartition", Value: binary.BigEndian.AppendUint32(nil, partition)},
		client.Header("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
	}
	request := client.Request{Topic: d.Topics.Checks, CustomerID: "acme", Value: []byte(`{"customer_id":"acme","feature_id":"messages"}`), Headers: headers}
	if err := d.Client.Send(t.Context(), []kafka.Message{request.Record()}); err != nil {
		t.Fatal(err)
	}
	record := d.AwaitRecords(t, drain, 1)[0]
	if record.Partition != partition {
		t.Errorf("the reply is in partition %d", record.Partition)
	}
	for _, want := range headers {
		if !slices.ContainsFunc(record.Headers, func(got kafka.Header) bool { return got.Key == want.Key && string(got.Value) == string(want.Value) }) {
			t.Errorf("header %s is not echoed: %v", want.Key, record.Headers)
		}
	}
	var result wire.ResultRecord
	if err := json.Unmarshal(record.Value, &result); err != nil || !strings.HasPrefix(result.RequestID, d.Topics.Checks+"/") {
		t.Errorf("%v: %s", err, record.Value)
	}
}

func TestAReplyTopicThatIsNotAllowedGetsNothing(t *testing.T) {
	d := proctest.NewDeployment(t)
	d.StartReady(t)
	d.Command(t, "acme", `{"type":"customer.put","customer_id":"acme"}`)
	result := d.Check(t, "acme", `{"customer_id":"acme","feature_id":"messages","send_event":true}`, client.Header("reply-topic", d.Topics.Commands))
	if result.Allowed || result.Code != "reply_topic_not_allowed" {
		t.Errorf("got %+v", result)
	}
	if left := d.Check(t, "acme", `{"customer_id":"acme","feature_id":"messages"}`).Balance.Remaining; left != "5" {
		t.Errorf("%s left of 5", left)
	}
}

func TestACheckThatIsReadTooLateIsNotDecided(t *testing.T) {
	d := proctest.NewDeployment(t)
	d.StartReady(t)
	d.Command(t, "acme", `{"type":"customer.put","customer_id":"acme"}`)
	body := `{"customer_id":"acme","feature_id":"messages","send_event":true}`
	if result := d.Check(t, "acme", body, client.Header("expires-at", "1")); result.Code != "deadline_exceeded" {
		t.Errorf("got %+v", result)
	}
	if result := d.Check(t, "acme", body, client.Header("expires-at", fmt.Sprint(time.Now().Add(time.Hour).UnixMilli()))); result.Code != "included" || result.Balance.Usage != "1" {
		t.Errorf("got %+v", result)
	}
}

func TestANewCatalogueIsTakenAndABadOneIsNot(t *testing.T) {
	d := proctest.NewDeployment(t)
	process, _ := d.StartReady(t)
	d.Command(t, "acme", `{"type":"customer.put","customer_id":"acme"}`)
	text, err := os.ReadFile(d.Catalog)
	if err != nil {
		t.Fatal(err)
	}
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(d.Catalog, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		process.Signal(t, syscall.SIGHUP)
	}
	write(strings.Replace(string(text), "type: boolean", "type: bolean", 1))
	process.AwaitOutput(t, "the old one stays")
	write(strings.Replace(string(text), "messages, name: Messages, type: metered, precision: 0", "messages, name: Messages, type: metered, precision: 2", 1))
	process.AwaitOutput(t, "was metered with precision 0 and is metered with precision 2")
	write(string(text) + "  - {id: extra, name: Extra, add_on: true, items: [{feature_id: messages, included: 7}]}\n")
	process.AwaitOutput(t, "new catalogue in force")
	result := d.Command(t, "acme", `{"type":"plan.attach","customer_id":"acme","plan_id":"extra"}`)
	if granted := result.Balances["messages"].Granted; granted != "12" {
		t.Errorf("granted %s", granted)
	}
}

func TestTheCatalogueCommandNamesEveryProblemWithItsLine(t *testing.T) {
	file := t.TempDir() + "/catalog.yaml"
	text := "features:\n  - {id: a, type: metered, precision: 12}\n  - {id: a, type: boolean}\nplans:\n  - {id: p, itms: []}\n"
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	out := proctest.Run(t, nil, "worker", "catalog", "check", file)
	if out.Code != 1 {
		t.Errorf("exit code %d", out.Code)
	}
	for _, want := range []string{"line 2:", "line 3:", "line 5:", "itms"} {
		if !strings.Contains(out.Stderr, want) {
			t.Errorf("no %q in\n%s", want, out.Stderr)
		}
	}
	if out := proctest.Run(t, nil, "worker", "catalog", "check", "../../deploy/catalog.yaml"); out.Code != 0 {
		t.Errorf("the example is not valid:\n%s", out.Stderr)
	}
	for path, want := range map[string]checkedCatalog{file: {Problems: make([]string, 3)}, "../../deploy/catalog.yaml": {Valid: true, Features: 6, Plans: 5}} {
		out := proctest.Run(t, nil, "worker", "catalog", "check", path, "-o", "json")
		var got checkedCatalog
		if err := json.Unmarshal([]byte(out.Stdout), &got); err != nil || got.Valid != want.Valid || got.Valid != (out.Code == 0) ||
			got.Features != want.Features || got.Plans != want.Plans || len(got.Problems) < len(want.Problems) {
			t.Errorf("%s: exit code %d, %v: %s%s", path, out.Code, err, out.Stdout, out.Stderr)
		}
	}
}

// kcat runs kcat and returns what it prints.
func kcat(t *testing.T, kafkaAddr, stdin string, args ...string) string {
	t.Helper()
	program, err := exec.LookPath("kcat")
	if err != nil {
		t.Skip("kcat is not installed")
	}
	command := exec.CommandContext(t.Context(), program, append([]string{"-b", kafkaAddr}, args...)...)
	command.Stdin = strings.NewReader(stdin)
	output, err := command.CombinedOutput()
	if err != nil {
		t.Fatalf("kcat %s: %v\n%s", strings.Join(args, " "), err, output)
	}
	return string(output)
}

// TestKcatAsksAndHears is what a user does first: produce with kcat, consume with kcat.
func TestKcatAsksAndHears(t *testing.T) {
	kafkaAddr, httpAddr := proctest.FreeAddr(t), proctest.FreeAddr(t)
	worker := proctest.Start(t, "worker", "dev", "--dev-kafka-addr", kafkaAddr, "--dev-redis-addr", "127.0.0.1:0", "--http-addr", httpAddr)
	worker.AwaitOutput(t, "Serving.")
	kcat(t, kafkaAddr, `acme:{"customer_id":"acme","feature_id":"messages","send_event":true}`, "-P", "-t", "balance.checks", "-K:", "-X", "partitioner=murmur2_random", "-H", "request-id=my-first")
	for _, topic := range []string{"balance.check-results", "balance.usage-events"} {
		for deadline := time.Now().Add(proctest.AnswerTimeout); ; {
			heard := kcat(t, kafkaAddr, "", "-C", "-t", topic, "-o", "beginning", "-e", "-q")
			if strings.Contains(heard, `"request_id":"my-first"`) {
				break
			}
			if time.Now().After(deadline) {
				t.Fatalf("nothing of my-first in %s:\n%s", topic, heard)
			}
		}
	}
	if code := worker.Stop(t); code != 0 {
		t.Errorf("exit code %d", code)
	}
}

func TestTheComposeFileSetsSettingsThatExist(t *testing.T) {
	text, err := os.ReadFile("../../docker-compose.yml")
	if err != nil {
		t.Fatal(err)
	}
	help := proctest.Run(t, nil, "worker", "run", "--help").Stdout
	names := regexp.MustCompile(`TOLLGATE_[A-Z_]+`).FindAllString(string(text), -1)
	for _, name := range names {
		if !strings.Contains(help, name) {
			t.Errorf("worker run has no setting %s", name)
		}
	}
	if len(names) == 0 {
		t.Error("the compose file sets nothing")
	}
}
