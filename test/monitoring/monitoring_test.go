//go:build real

// Package monitoring holds rules and dashboard against a real Prometheus that scrapes a real
// worker: `make monitoring`.
package monitoring

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"tollgate/internal/proctest"
	"tollgate/internal/realtest"
)

func TestMain(m *testing.M) { os.Exit(proctest.Main(m)) }

const deploy = "../../deploy"

func TestTheRulesHold(t *testing.T) {
	for _, args := range [][]string{
		{"check", "config", "prometheus.yaml"}, {"check", "rules", "tollgate.rules.yaml"}, {"test", "rules", "tollgate.rules.test.yaml"},
	} {
		command := exec.Command("promtool", args...)
		command.Dir = filepath.Join(deploy, "prometheus")
		output, err := command.CombinedOutput()
		if err != nil {
			t.Errorf("promtool %s: %v\n%s", strings.Join(args, " "), err, output)
		}
	}
}

// expressions are those of the dashboard, and the alerts' and recording rules'.
func expressions(t *testing.T) (all []string) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(deploy, "grafana", "tollgate.json"))
	if err != nil {
		t.Fatal(err)
	}
	var dashboard struct {
		Panels []struct {
			Title   string `json:"title"`
			Targets []struct {
				Expr string `json:"expr"`
			} `json:"targets"`
		} `json:"panels"`
	}
	if err := json.Unmarshal(text, &dashboard); err != nil {
		t.Fatal(err)
	}
	for _, panel := range dashboard.Panels {
		if len(panel.Targets) == 0 {
			t.Errorf("panel %q shows nothing", panel.Title)
		}
		for _, target := range panel.Targets {
			all = append(all, strings.ReplaceAll(target.Expr, "$__rate_interval", "1m"))
		}
	}
	return all
}

// prometheus is a server that scrapes a worker once a second.
type prometheus struct {
	*testing.T
	addr string
}

func startPrometheus(t *testing.T, workerAddr string) *prometheus {
	t.Helper()
	folder := t.TempDir()
	rules, err := filepath.Abs(filepath.Join(deploy, "prometheus", "tollgate.rules.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	config := fmt.Sprintf("global: {scrape_interval: 1s, evaluation_interval: 1s}\nrule_files: [%q]\nscrape_configs:\n- {job_name: tollgate, static_configs: [{targets: [%q]}]}\n", rules, workerAddr)
	file := filepath.Join(folder, "prometheus.yaml")
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	p := &prometheus{t, proctest.FreeAddr(t)}
	command := exec.Command("prometheus", "--config.file", file, "--storage.tsdb.path", filepath.Join(folder, "data"), "--web.listen-address", p.addr, "--log.level", "warn")
	if err := command.Start(); err != nil {
		t.Fatalf("prometheus (Debian package prometheus): %v", err)
	}
	t.Cleanup(func() {
		_ = command.Process.Kill()
		_ = command.Wait()
	})
	return p
}

// api asks Prometheus's HTTP API; ok is false while it does not answer.
func (p *prometheus) api(path string, into any) (ok bool) {
	p.Helper()
	response, err := http.Get("http://" + p.addr + "/api/v1/" + path)
	if err != nil {
		return false
	}
	defer response.Body.Close()
	return response.StatusCode == http.StatusOK && json.NewDecoder(response.Body).Decode(into) == nil
}

type samples struct {
	Status string `json:"status"`
	Error  string `json:"error"`
	Data   struct {
		Result []struct {
			Value [2]any `json:"value"`
		} `json:"result"`
	} `json:"data"`
}

func (p *prometheus) query(expression string) (result samples) {
	p.Helper()
	if !p.api("query?query="+url.QueryEscape(expression), &result) {
		p.Errorf("prometheus does not take %s", expression)
	}
	return result
}

// rules are those that Prometheus has loaded.
type rules struct {
	Data struct {
		Groups []struct {
			Rules []struct {
				Name, Query, Health, LastError, State string
			}
		}
	}
}

// alert says whether any fires, or soon will.
func (r *rules) alert() bool {
	for _, group := range r.Data.Groups {
		for _, rule := range group.Rules {
			if rule.State == "firing" || rule.State == "pending" {
				return true
			}
		}
	}
	return false
}

var (
	metricName = regexp.MustCompile(`\b(tollgate|process)[_:][a-z0-9_:]+`)
	selector   = regexp.MustCompile(`\{[^}]*\}`)
)

// TestEveryMetricThatIsNamedExists: a dashboard or an alert on a metric that is not there
// stays silent for ever.
func TestEveryMetricThatIsNamedExists(t *testing.T) {
	d := proctest.NewDeployment(t)
	_, workerAddr := d.StartReady(t)
	p := startPrometheus(t, workerAddr)
	d.Command(t, "acme", `{"type":"customer.put","customer_id":"acme"}`)
	d.Command(t, "acme", `{"type":"plan.attach","customer_id":"acme","plan_id":"pro"}`)
	d.Check(t, "acme", `{"customer_id":"acme","feature_id":"messages","send_event":true}`)
	realtest.UntilWithin(t, time.Minute, "prometheus has seen a check", func() bool {
		var result samples
		return p.api("query?query="+url.QueryEscape(`tollgate_checks_total{code="included"} > 0 and on() tollgate:kafka_lag:sum`), &result) && len(result.Data.Result) > 0
	})

	var rules rules
	realtest.UntilWithin(t, time.Minute, "no alert of a worker that is well (before the first scrape there was none)", func() bool {
		return p.api("rules", &rules) && !rules.alert()
	})
	all, recorded := expressions(t), []string{}
	for _, group := range rules.Data.Groups {
		for _, rule := range group.Rules {
			if rule.Health != "ok" {
				t.Errorf("rule %s is %s: %s", rule.Name, rule.Health, rule.LastError)
			}
			all, recorded = append(all, rule.Query), append(recorded, rule.Name)
		}
	}
	if len(all) < 30 {
		t.Fatalf("only %d expressions", len(all))
	}
	var names []string
	for _, expression := range all {
		p.query(expression)
		names = append(names, metricName.FindAllString(selector.ReplaceAllString(expression, ""), -1)...)
	}
	slices.Sort(names)
	for _, name := range slices.Compact(names) {
		// A ratio of nothing records nothing; its own metrics are looked at.
		if len(p.query("count("+name+")").Data.Result) == 0 && !slices.Contains(recorded, name) {
			t.Errorf("there is no metric %s", name)
		}
	}
	t.Logf("%d metrics in %d expressions", len(slices.Compact(names)), len(all))
}
