package console

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"tollgate/internal/balance"
	"tollgate/internal/wire"
)

func newPage(t *testing.T, options Options) *httptest.Server {
	t.Helper()
	if options.Gatherer == nil {
		options.Gatherer = prometheus.NewRegistry()
	}
	options.Feed = &Feed{}
	options.Features = func() []string { return []string{"messages"} }
	server := httptest.NewServer(Handler(options))
	t.Cleanup(server.Close)
	return server
}

func do(t *testing.T, request *http.Request) (status int, header http.Header, body string) {
	t.Helper()
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	var text strings.Builder
	if err := response.Write(&text); err != nil {
		t.Fatal(err)
	}
	return response.StatusCode, response.Header, text.String()
}

func request(t *testing.T, method, url, body string, headers ...string) *http.Request {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(headers); i += 2 {
		if headers[i] == "Host" {
			r.Host = headers[i+1]
		}
		r.Header.Set(headers[i], headers[i+1])
	}
	return r
}

func TestOtherSitesGetNothing(t *testing.T) {
	asked := false
	server := newPage(t, Options{
		Customer: func(context.Context, string) ([]byte, error) { asked = true; return []byte(`{}`), nil },
		Check: func(context.Context, []byte) ([]byte, time.Duration, error) {
			asked = true
			return []byte(`{}`), 0, nil
		},
	})
	for name, r := range map[string]*http.Request{
		"a name that leads here":     request(t, "GET", server.URL+"/api/customers/acme", "", "Host", "evil.example:8080"),
		"another origin":             request(t, "GET", server.URL+"/api/customers/acme", "", "Origin", "http://evil.example"),
		"another origin, a check":    request(t, "POST", server.URL+"/api/checks", `{}`, "Origin", "http://evil.example", "Content-Type", "application/json"),
		"an origin that hides":       request(t, "POST", server.URL+"/api/checks", `{}`, "Origin", "null", "Content-Type", "application/json"),
		"a form":                     request(t, "POST", server.URL+"/api/checks", `{}`, "Content-Type", "text/plain"),
		"a check by way of an image": request(t, "GET", server.URL+"/api/checks", ""),
	} {
		status, _, _ := do(t, r)
		if status < 400 || asked {
			t.Errorf("%s: status %d, asked %t", name, status, asked)
		}
		asked = false
	}
	status, header, _ := do(t, request(t, "GET", server.URL+"/", "", "Host", "localhost:8080"))
	if status != http.StatusOK || !strings.Contains(header.Get("Content-Security-Policy"), "default-src 'none'") {
		t.Errorf("status %d, %v", status, header)
	}
}

func TestAPageForLookingSendsNothing(t *testing.T) {
	server := newPage(t, Options{})
	status, _, body := do(t, request(t, "POST", server.URL+"/api/checks", `{"customer_id":"acme"}`, "Content-Type", "application/json"))
	if status != http.StatusForbidden || !strings.Contains(body, "--console-write") {
		t.Errorf("%d %s", status, body)
	}
}

func TestWhatIsAskedComesThroughAsItWas(t *testing.T) {
	var asked, sent string
	server := newPage(t, Options{
		Customer: func(_ context.Context, id string) ([]byte, error) {
			asked = id
			if id == "away" {
				return nil, errors.New("redis is away")
			}
			return []byte(`{"ok":true}`), nil
		},
		Check: func(_ context.Context, request []byte) ([]byte, time.Duration, error) {
			sent = string(request)
			return []byte(`{"allowed":true}`), 1500 * time.Microsecond, nil
		},
	})
	for _, id := range []string{"a/b?c#d", "käse <b>", "%2F"} {
		if status, _, _ := do(t, request(t, "GET", server.URL+"/api/customers/"+pathEscaped(id), "")); status != http.StatusOK || asked != id {
			t.Errorf("%q: status %d, asked for %q", id, status, asked)
		}
	}
	if status, _, body := do(t, request(t, "GET", server.URL+"/api/customers/away", "")); status != http.StatusServiceUnavailable || !strings.Contains(body, "redis is away") {
		t.Errorf("%d %s", status, body)
	}
	const precise = `{"customer_id":"acme","required_balance":0.000001}`
	status, _, body := do(t, request(t, "POST", server.URL+"/api/checks", precise, "Content-Type", "application/json", "Origin", server.URL))
	if status != http.StatusOK || sent != precise || !strings.Contains(body, `"took_ms":1.5`) {
		t.Errorf("%d %q %s", status, sent, body)
	}
	if status, _, _ := do(t, request(t, "POST", server.URL+"/api/checks", strings.Repeat(" ", maxRequestBytes+1), "Content-Type", "application/json")); status != http.StatusRequestEntityTooLarge {
		t.Errorf("status %d", status)
	}
}

func pathEscaped(id string) string {
	return strings.NewReplacer("%", "%25", "/", "%2F", "?", "%3F", "#", "%23", " ", "%20", "<", "%3C", ">", "%3E").Replace(id)
}

func TestTheFeedKeepsASampleOfTheLatest(t *testing.T) {
	var feed Feed
	for i := range 3 * feedLength {
		feed.second.Store(0) // another second has begun
		feed.Checked(&wire.Result{CustomerID: "acme", Code: balance.Included, EvaluatedMs: int64(i)})
	}
	latest := feed.Latest()
	if len(latest) != feedLength {
		t.Fatalf("%d decisions", len(latest))
	}
	for i, decision := range latest {
		if want := int64(3*feedLength - 1 - i); decision.AtMs != want || decision.CustomerID != "acme" || !decision.Allowed {
			t.Errorf("decision %d is %+v", i, decision)
		}
	}
}

func TestTheFeedTakesSoManyInASecond(t *testing.T) {
	var feed Feed
	for range 10 * feedPerSecond { // within one second or two
		feed.Checked(&wire.Result{Code: balance.Included})
	}
	if n := len(feed.Latest()); n < feedPerSecond || n > 2*feedPerSecond {
		t.Errorf("%d decisions", n)
	}
}

func TestTheOverviewIsWhatTheMetricsSay(t *testing.T) {
	registry := prometheus.NewRegistry()
	checks := prometheus.NewCounterVec(prometheus.CounterOpts{Name: "tollgate_checks_total"}, []string{"allowed", "code"})
	latency := prometheus.NewHistogram(prometheus.HistogramOpts{Name: "tollgate_check_latency_seconds", Buckets: []float64{0.001, 0.1}})
	lag := prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "tollgate_kafka_lag"}, []string{"topic", "partition"})
	joined := prometheus.NewGauge(prometheus.GaugeOpts{Name: "tollgate_group_joined"})
	blocked := prometheus.NewGauge(prometheus.GaugeOpts{Name: "tollgate_partitions_blocked"})
	stalled := prometheus.NewGauge(prometheus.GaugeOpts{Name: "tollgate_partitions_stalled"})
	registry.MustRegister(checks, latency, lag, joined, blocked, stalled)
	joined.Set(1)
	blocked.Set(2)
	stalled.Set(3)
	checks.WithLabelValues("true", "included").Add(3)
	latency.Observe(0.05)
	lag.WithLabelValues("balance.checks", "2").Set(7)
	server := newPage(t, Options{Gatherer: registry})
	response, err := http.Get(server.URL + "/api/overview")
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	var overview Overview
	if err := json.NewDecoder(response.Body).Decode(&overview); err != nil {
		t.Fatal(err)
	}
	if overview.Checks["included"] != 3 || len(overview.Latency) != 2 || overview.Latency[0].Count != 0 || overview.Latency[1].Count != 1 ||
		len(overview.Lag) != 1 || overview.Lag[0] != (Lag{"balance.checks", "2", 7}) || !overview.Joined || overview.Stuck != 5 || overview.Writable || overview.Features[0] != "messages" {
		t.Errorf("%+v", overview)
	}
}
