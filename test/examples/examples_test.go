//go:build real

// Package examples runs the clients of examples/ against worker dev: `make examples`. It
// installs what they need where their own tools put it.
package examples

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"tollgate/internal/proctest"
)

func TestMain(m *testing.M) { os.Exit(proctest.Main(m)) }

const folder = "../../examples"

// run runs a command of an example to its end.
func run(t *testing.T, kafkaAddr, where, name string, args ...string) (output string, code int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	command := exec.CommandContext(ctx, name, args...)
	command.Dir = filepath.Join(folder, where)
	command.Env = append(os.Environ(), "KAFKA_BROKERS="+kafkaAddr)
	text, err := command.CombinedOutput()
	if exited := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exited) {
		t.Fatalf("%s: %v", name, err)
	}
	return string(text), command.ProcessState.ExitCode()
}

func must(t *testing.T, kafkaAddr, where, name string, args ...string) string {
	t.Helper()
	output, code := run(t, kafkaAddr, where, name, args...)
	if code != 0 {
		t.Fatalf("%s %s: exit code %d\n%s", name, strings.Join(args, " "), code, output)
	}
	return output
}

func TestEachLanguageAsksAndIsAnswered(t *testing.T) {
	kafkaAddr := proctest.FreeAddr(t)
	worker := proctest.Start(t, "worker", "dev", "--dev-kafka-addr", kafkaAddr, "--dev-redis-addr", "127.0.0.1:0", "--http-addr", "127.0.0.1:0")
	worker.AwaitOutput(t, "Serving.")
	out := proctest.Run(t, nil, "producer", "grant", "--kafka-brokers", kafkaAddr, "--customer", "acme", "--feature", "messages", "--amount", "100")
	if out.Code != 0 {
		t.Fatalf("%s%s", out.Stdout, out.Stderr)
	}
	python := filepath.Join(t.TempDir(), "venv", "bin", "python")
	for _, language := range []struct {
		name    string
		prepare func(*testing.T)
		command []string
	}{
		{"python", func(t *testing.T) {
			must(t, kafkaAddr, "python", "python3", "-m", "venv", filepath.Dir(filepath.Dir(python)))
			must(t, kafkaAddr, "python", python, "-m", "pip", "install", "-q", "-r", "requirements.txt")
		}, []string{python, "check.py"}},
		{"node", func(t *testing.T) { must(t, kafkaAddr, "node", "npm", "ci", "--no-audit", "--no-fund", "--silent") }, []string{"node", "check.js"}},
		{"java", func(t *testing.T) { must(t, kafkaAddr, "java", "mvn", "-q", "-B", "compile") }, []string{"mvn", "-q", "-B", "exec:java"}},
	} {
		t.Run(language.name, func(t *testing.T) {
			language.prepare(t)
			ask := func(request ...string) (string, int) {
				args := append(language.command[1:len(language.command):len(language.command)], request...)
				if language.name == "java" {
					args = append(language.command[1:len(language.command):len(language.command)], "-Dexec.args="+strings.Join(request, " "))
				}
				return run(t, kafkaAddr, language.name, language.command[0], args...)
			}
			if output, code := ask("acme", "messages", "2"); code != 0 || !strings.Contains(output, "allowed: included, ") {
				t.Errorf("exit code %d\n%s", code, output)
			}
			if output, code := ask("acme", "messages", "1000000"); code == 0 || !strings.Contains(output, "denied: insufficient_balance, ") {
				t.Errorf("exit code %d\n%s", code, output)
			}
		})
	}
}
