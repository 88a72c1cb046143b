package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"tollgate/internal/proctest"
)

func TestAShellIsToldWhatComesNext(t *testing.T) {
	for line, want := range map[string][]string{
		"worker ":              {"dev", "run", "catalog", "topics", "completion", "version"},
		"worker to":            {"topics"},
		"worker run --redis-w": {"--redis-wait-replicas"},
	} {
		out := proctest.Run(t, []string{"COMP_LINE=" + line}, "worker")
		got := strings.Fields(out.Stdout)
		for _, word := range want {
			found := false
			for _, offered := range got {
				found = found || offered == word
			}
			if !found {
				t.Errorf("%q: %q is not among %q", line, word, got)
			}
		}
	}
}

// TestTheCompletionWorksInBash has a real bash complete a command.
func TestTheCompletionWorksInBash(t *testing.T) {
	folder := filepath.Dir(proctest.Build(t, "worker"))
	script := `source <(worker completion bash); complete -p worker`
	command := exec.Command("bash", "-c", script)
	command.Env = append(os.Environ(), "PATH="+folder+":"+os.Getenv("PATH"))
	output, err := command.CombinedOutput()
	if err != nil || !strings.Contains(string(output), "worker") {
		t.Errorf("%v\n%s", err, output)
	}
	for _, shell := range []string{"zsh", "fish"} {
		if out := proctest.Run(t, nil, "worker", "completion", shell); out.Code != 0 || !strings.Contains(out.Stdout, "worker") {
			t.Errorf("%s: %+v", shell, out)
		}
	}
	if out := proctest.Run(t, nil, "worker", "completion", "csh"); out.Code != 2 || !strings.Contains(out.Stderr, "bash") {
		t.Errorf("csh: %+v", out)
	}
}

func TestTheManualPageNamesEveryCommandAndFlag(t *testing.T) {
	for program, want := range map[string][]string{
		"worker": {".TH WORKER 1", "catalog check", "--redis-wait-replicas", "--exactly-once"}, "producer": {".TH PRODUCER 1", "import", "--kafka-brokers"},
	} {
		out := proctest.Run(t, nil, program, "--man")
		for _, text := range want {
			if !strings.Contains(out.Stdout, text) {
				t.Errorf("%s: no %q in\n%.600s", program, text, out.Stdout)
			}
		}
	}
}
