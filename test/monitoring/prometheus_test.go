//go:build real

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
	"testing"
	"time"

	"tollgate/internal/proctest"
	"tollgate/internal/realtest"
)

const deploy = "../../deploy"

// realRules is the file of the rules as they are.
func realRules(t *testing.T) string {
	t.Helper()
	file, err := filepath.Abs(filepath.Join(deploy, "prometheus", "tollgate.rules.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	return file
}

var waits = regexp.MustCompile(`(?m)^(\s+for:) \d+m$`)

// hastyRules is a copy of the rules whose alerts fire after a second: every "for: 5m" is "for: 1s". Nothing else differs:
// expressions, thresholds and the windows that they look back over are the real ones. That the real waiting is neither too
// short nor too long is for tollgate.rules.test.yaml to show.
func hastyRules(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile(realRules(t))
	if err != nil {
		t.Fatal(err)
	}
	if !waits.Match(text) {
		t.Fatal("no alert waits")
	}
	file := filepath.Join(t.TempDir(), "hasty.rules.yaml")
	if err := os.WriteFile(file, waits.ReplaceAll(text, []byte("$1 1s")), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// prometheus is a server that scrapes workers once a second.
type prometheus struct {
	*testing.T
	addr string
}

func startPrometheus(t *testing.T, rules string, workerAddrs ...string) *prometheus {
	t.Helper()
	folder := t.TempDir()
	targets, err := json.Marshal(workerAddrs)
	if err != nil {
		t.Fatal(err)
	}
	config := fmt.Sprintf("global: {scrape_interval: 1s, evaluation_interval: 1s}\nrule_files: [%q]\nscrape_configs:\n- {job_name: tollgate, static_configs: [{targets: %s}]}\n", rules, targets)
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

// value is what an expression with one sample is, "" if it has none.
func (p *prometheus) value(expression string) string {
	p.Helper()
	all := p.query(expression).Data.Result
	if len(all) == 0 {
		return ""
	}
	return fmt.Sprint(all[0].Value[1])
}

// has says whether an expression has samples by now.
func (p *prometheus) has(expression string) bool {
	var result samples
	return p.api("query?query="+url.QueryEscape(expression), &result) && len(result.Data.Result) > 0
}

// firing is an expression that has samples while an alert fires.
func firing(alert string) string {
	return fmt.Sprintf("ALERTS{alertname=%q,alertstate=\"firing\"}", alert)
}

const alertTimeout = 3 * time.Minute

// awaitAlert waits until an alert fires, with labels like these (`topic="checks"`, "" for any).
func (p *prometheus) awaitAlert(alert, labels string) {
	p.Helper()
	realtest.UntilWithin(p.T, alertTimeout, alert+" fires "+labels, func() bool {
		return p.has(fmt.Sprintf("ALERTS{alertname=%q,alertstate=\"firing\",%s}", alert, labels))
	})
}

// awaitEnd waits until an alert fires no more.
func (p *prometheus) awaitEnd(alert string) {
	p.Helper()
	realtest.UntilWithin(p.T, alertTimeout, alert+" ends", func() bool { return !p.has(firing(alert)) })
}

// awaitQuiet waits until workers have been scraped and no alert fires: what fires later comes from what the test does.
func (p *prometheus) awaitQuiet(workers int) {
	p.Helper()
	realtest.UntilWithin(p.T, alertTimeout, "the workers are scraped, and no alert fires", func() bool {
		return p.has(fmt.Sprintf("count(tollgate_kafka_lag > -1 and on (instance) tollgate_group_joined == 1) > 0 and on() count(up == 1) == %d", workers)) &&
			!p.has(`ALERTS{alertstate="firing"}`)
	})
}

// mustBeSilent fails the test if an alert fires.
func (p *prometheus) mustBeSilent(alert string) {
	p.Helper()
	if p.has(firing(alert)) {
		p.Errorf("%s fires", alert)
	}
}
