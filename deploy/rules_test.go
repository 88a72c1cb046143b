package deploy

import (
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/goccy/go-yaml"
)

type alert struct {
	Name        string `yaml:"alert"`
	For         string
	Labels      struct{ Severity string }
	Annotations struct{ Summary, Description, Runbook string }
}

func alerts(t *testing.T) (all []alert) {
	t.Helper()
	text, err := os.ReadFile("prometheus/tollgate.rules.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var rules struct{ Groups []struct{ Rules []alert } }
	if err := yaml.Unmarshal(text, &rules); err != nil {
		t.Fatal(err)
	}
	for _, group := range rules.Groups {
		for _, rule := range group.Rules {
			if rule.Name != "" {
				all = append(all, rule)
			}
		}
	}
	if len(all) < 15 {
		t.Fatalf("only %d alerts", len(all))
	}
	return all
}

func TestEveryAlertSaysWhatToDo(t *testing.T) {
	text, err := os.ReadFile("../docs/operating.md")
	if err != nil {
		t.Fatal(err)
	}
	_, chapter, _ := strings.Cut(string(text), "\n## When an alert fires\n")
	sections := map[string]bool{}
	for _, heading := range regexp.MustCompile(`(?m)^### (Tollgate\w+)$`).FindAllStringSubmatch(chapter, -1) {
		sections[heading[1]] = true
	}
	tests, err := os.ReadFile("prometheus/tollgate.rules.test.yaml")
	if err != nil {
		t.Fatal(err)
	}
	named := map[string]bool{}
	for _, a := range alerts(t) {
		named[a.Name] = true
		if a.For == "" || a.Labels.Severity != "critical" && a.Labels.Severity != "warning" || a.Annotations.Summary == "" || a.Annotations.Description == "" {
			t.Errorf("%s lacks something: %+v", a.Name, a)
		}
		if !sections[a.Name] || a.Annotations.Runbook != "docs/operating.md#"+strings.ToLower(a.Name) {
			t.Errorf("%s points at %s, and docs/operating.md has a section: %t", a.Name, a.Annotations.Runbook, sections[a.Name])
		}
		if !strings.Contains(string(tests), "- alertname: "+a.Name+"\n") {
			t.Errorf("no test has %s fire", a.Name)
		}
	}
	for name := range sections {
		if !named[name] {
			t.Errorf("docs/operating.md has a section on %s, which is no alert", name)
		}
	}
}
