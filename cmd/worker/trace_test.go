package main

import (
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/segmentio/kafka-go"
	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	traces "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/proto"

	"tollgate/internal/client"
	"tollgate/internal/proctest"
	"tollgate/internal/servertest"
)

// spans are those that a worker has sent to a collector.
type spans struct {
	mutex sync.Mutex
	all   []*traces.Span
}

func (s *spans) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	var request collector.ExportTraceServiceRequest
	if err == nil {
		err = proto.Unmarshal(body, &request)
	}
	if err != nil || r.URL.Path != "/v1/traces" {
		http.Error(w, fmt.Sprint(r.URL, err), http.StatusBadRequest)
		return
	}
	s.mutex.Lock()
	defer s.mutex.Unlock()
	for _, resource := range request.ResourceSpans {
		for _, scope := range resource.ScopeSpans {
			s.all = append(s.all, scope.Spans...)
		}
	}
}

func (s *spans) named(name string) *traces.Span {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	i := slices.IndexFunc(s.all, func(span *traces.Span) bool { return span.Name == name })
	if i < 0 {
		return nil
	}
	return s.all[i]
}

func TestABatchIsASpanLinkedToWhoSentItsRecords(t *testing.T) {
	var sent spans
	server := httptest.NewServer(&sent)
	t.Cleanup(server.Close)
	t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", server.URL)
	t.Setenv("OTEL_BSP_SCHEDULE_DELAY", "50")
	d := proctest.NewDeployment(t)
	usage := servertest.NewDrain(t, d.Broker, d.Topics.UsageEvents)
	worker, _ := d.StartReady(t)
	d.Command(t, "acme", `{"type":"customer.put","customer_id":"acme"}`)
	d.Command(t, "acme", `{"type":"plan.attach","customer_id":"acme","plan_id":"pro"}`)

	const traceID, spanID = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
	parent := client.Header("traceparent", "00-"+traceID+"-"+spanID+"-01")
	var result struct{ Allowed bool }
	answer := d.Ask(t, d.Topics.Checks, d.Topics.CheckResults, "acme", `{"customer_id":"acme","feature_id":"messages","send_event":true}`, &result, parent)
	for what, headers := range map[string]map[string]string{
		"result": headersOf(answer.Record), "usage event": headersOf(d.AwaitRecords(t, usage, 1)[0]),
	} {
		if headers["traceparent"] != string(parent.Value) {
			t.Errorf("the %s has %v", what, headers)
		}
	}
	if code := worker.Stop(t); code != 0 { // what is left is sent
		t.Fatalf("exit code %d", code)
	}

	batch := sent.named("process " + d.Topics.Checks)
	if batch == nil {
		t.Fatal("no span of a batch of checks")
	}
	if len(batch.Links) != 1 || hex.EncodeToString(batch.Links[0].TraceId) != traceID || hex.EncodeToString(batch.Links[0].SpanId) != spanID {
		t.Errorf("the batch is linked to %v", batch.Links)
	}
	for _, name := range []string{"redis", "publish"} {
		found := false
		sent.mutex.Lock()
		for _, span := range sent.all {
			found = found || (span.Name == name && string(span.ParentSpanId) == string(batch.SpanId))
		}
		sent.mutex.Unlock()
		if !found {
			t.Errorf("the batch has no span %q", name)
		}
	}
	if batch.EndTimeUnixNano <= batch.StartTimeUnixNano || time.Duration(batch.EndTimeUnixNano-batch.StartTimeUnixNano) > time.Minute {
		t.Errorf("the batch took from %d to %d", batch.StartTimeUnixNano, batch.EndTimeUnixNano)
	}
}

func TestAnotherProtocolOfSpansIsRefused(t *testing.T) {
	out := proctest.Run(t, []string{"OTEL_EXPORTER_OTLP_ENDPOINT=http://127.0.0.1:4317", "OTEL_EXPORTER_OTLP_PROTOCOL=grpc"}, "worker", "run")
	if out.Code != 2 || !strings.Contains(out.Stderr, "OTEL_EXPORTER_OTLP_PROTOCOL") || !strings.Contains(out.Stderr, "http/protobuf") {
		t.Errorf("exit code %d\n%s", out.Code, out.Stderr)
	}
}

func headersOf(record kafka.Message) map[string]string {
	headers := map[string]string{}
	for _, header := range record.Headers {
		headers[header.Key] = string(header.Value)
	}
	return headers
}
