//go:build real

// Package monitoring holds rules and dashboard against a real Prometheus that scrapes a real
// worker: `make monitoring`.
package monitoring

import (
	"encoding/json"
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
	p := startPrometheus(t, realRules(t), workerAddr)
	d.Command(t, "acme", `{"type":"customer.put","customer_id":"acme"}`)
	d.Command(t, "acme", `{"type":"plan.attach","customer_id":"acme","plan_id":"pro"}`)
	d.Check(t, "acme", `{"customer_id":"acme","feature_id":"messages","send_event":true}`)
	realtest.UntilWithin(t, time.Minute, "prometheus has seen a check", func() bool {
		return p.has(`tollgate_checks_total{code="included"} > 0 and on() tollgate:kafka_lag:sum`)
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
