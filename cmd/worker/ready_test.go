package main

import (
	"net/http"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"tollgate/internal/client"
	"tollgate/internal/kafka"
	"tollgate/internal/proctest"
	"tollgate/internal/realtest"
	"tollgate/internal/servertest"
)

// TestReadinessSaysWhyNothingGoesOn takes Redis away while records wait: /readyz names it at once, and the partitions
// once they have stood still for 30 s.
func TestReadinessSaysWhyNothingGoesOn(t *testing.T) {
	r := realtest.StartRedis(t)
	d := proctest.NewDeploymentOn(t, servertest.Broker(t), "--redis-addrs", r.Addr)
	_, httpAddr := d.StartReady(t)
	r.Kill()
	sent := time.Now()
	ready := func() (status int, text string) {
		status, body := proctest.Get(t, "http://"+httpAddr+"/readyz")
		return status, string(body)
	}
	status, text := ready()
	if status != http.StatusServiceUnavailable || !strings.Contains(text, "redis: dial tcp "+r.Addr) || !strings.Contains(text, "kafka: ok\n") || !strings.Contains(text, "partitions: ok\n") {
		t.Errorf("at once: %d\n%s", status, text)
	}
	record := client.Request{Topic: d.Topics.Checks, CustomerID: "acme", Value: []byte(`{"customer_id":"acme","feature_id":"messages"}`)}
	if err := d.Client.Send(t.Context(), []kafka.Message{record.Record()}); err != nil {
		t.Fatal(err)
	}
	stalled := regexp.MustCompile(`partitions: ` + regexp.QuoteMeta(d.Topics.Checks) + ` [0-3] stand still for \S+ with 1 records waiting: .*` + regexp.QuoteMeta(r.Addr))
	realtest.UntilWithin(t, 2*time.Minute, "the partition is said to stand still", func() bool {
		status, text = ready()
		return status == http.StatusServiceUnavailable && stalled.MatchString(text)
	})
	if waited := time.Since(sent); waited < 20*time.Second {
		t.Errorf("it stood still after %v", waited)
	}
	if n := proctest.Metric(t, httpAddr, "tollgate_partitions_stalled"); n != 1 {
		t.Errorf("tollgate_partitions_stalled %v", n)
	}
	r.Start(t)
	realtest.UntilWithin(t, time.Minute, "it is ready again", func() bool {
		status, text = ready()
		return status == http.StatusOK && proctest.Metric(t, httpAddr, "tollgate_partitions_stalled") == 0
	})
}

// TestTheDocsListEveryMetric holds the table of docs/operations.md against what a worker shows.
func TestTheDocsListEveryMetric(t *testing.T) {
	d := proctest.NewDeployment(t)
	_, httpAddr := d.StartReady(t)
	d.Command(t, "acme", `{"type":"customer.put","customer_id":"acme"}`)
	d.Check(t, "acme", `{"customer_id":"acme","feature_id":"messages","send_event":true}`)
	servertest.Until(t, "the lag is told", func() bool { return strings.Contains(get(t, "http://"+httpAddr+"/metrics"), "tollgate_kafka_lag{") })
	text, err := os.ReadFile("../../docs/operations.md")
	if err != nil {
		t.Fatal(err)
	}
	_, table, _ := strings.Cut(string(text), "all with the prefix `tollgate_`")
	table, _, _ = strings.Cut(table, "\n\nNo label")
	documented := map[string]bool{}
	for _, row := range regexp.MustCompile("(?m)^\\| `(\\w+)(?:\\{[\\w,]*\\})?` \\| .+ \\|$").FindAllStringSubmatch(table, -1) {
		documented[row[1]] = true
	}
	shown := map[string]bool{}
	for _, line := range regexp.MustCompile(`(?m)^# TYPE tollgate_(\w+) `).FindAllStringSubmatch(get(t, "http://"+httpAddr+"/metrics"), -1) {
		shown[line[1]] = true
		if !documented[line[1]] {
			t.Errorf("docs/operations.md does not list %s", line[1])
		}
	}
	for name := range documented {
		if !shown[name] {
			t.Errorf("docs/operations.md lists %s, which no worker shows", name)
		}
	}
	if len(shown) < 20 {
		t.Errorf("only %d metrics", len(shown))
	}
}
