// Package proctest runs the project's programs as processes of their own, as a user
// does: built once, with no settings but those given, ended with the test.
package proctest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"tollgate/internal/servertest"
	"tollgate/internal/settings"
)

var built struct {
	sync.Mutex
	folder string
}

// Build builds a program of cmd/ and returns its path.
func Build(t testing.TB, name string) string {
	t.Helper()
	return BuildPackage(t, "tollgate/cmd/"+name)
}

// BuildPackage is Build for a program anywhere in the project.
func BuildPackage(t testing.TB, program string) string {
	t.Helper()
	name := path.Base(program)
	built.Lock()
	defer built.Unlock()
	if built.folder == "" {
		folder, err := os.MkdirTemp("", "tollgate-test-")
		if err != nil {
			t.Fatal(err)
		}
		built.folder = folder
	}
	file := filepath.Join(built.folder, name)
	if _, err := os.Stat(file); err == nil {
		return file
	}
	output, err := exec.Command("go", "build", "-o", file, program).CombinedOutput()
	if err != nil {
		t.Fatalf("build %s: %v\n%s", name, err, output)
	}
	return file
}

// Main is servertest.Main for tests that run programs: it removes what was built, too.
func Main(m *testing.M) int {
	code := servertest.Main(m)
	_ = os.RemoveAll(built.folder)
	return code
}

// environment is this process's, without settings of the programs.
func environment(extra ...string) []string {
	var env []string
	for _, variable := range os.Environ() {
		if !strings.HasPrefix(variable, settings.EnvPrefix+"_") {
			env = append(env, variable)
		}
	}
	return append(env, extra...)
}

// Output is what a program that has ended left.
type Output struct {
	Stdout, Stderr string
	Code           int
}

const runTimeout = 2 * time.Minute

// Run runs a program to its end.
func Run(t testing.TB, env []string, name string, args ...string) Output {
	t.Helper()
	return RunWith(t, env, "", name, args...)
}

// RunWith runs a program to its end on a standard input.
func RunWith(t testing.TB, env []string, stdin, name string, args ...string) Output {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), runTimeout)
	defer cancel()
	command := exec.CommandContext(ctx, Build(t, name), args...)
	command.Env = environment(env...)
	command.Stdin = strings.NewReader(stdin)
	var stdout, stderr bytes.Buffer
	command.Stdout, command.Stderr = &stdout, &stderr
	err := command.Run()
	if ctx.Err() != nil {
		t.Fatalf("%s %s did not end\n%s\n%s", name, strings.Join(args, " "), &stdout, &stderr)
	}
	if exited := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exited) {
		t.Fatal(err)
	}
	return Output{stdout.String(), stderr.String(), command.ProcessState.ExitCode()}
}

// Process is a program that runs.
type Process struct {
	command *exec.Cmd
	output  lockedBuffer
	done    chan struct{}
}

// lockedBuffer is what a process has written, with a channel that is closed when there
// is more.
type lockedBuffer struct {
	mutex  sync.Mutex
	buffer bytes.Buffer
	more   chan struct{}
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mutex.Lock()
	defer b.mutex.Unlock()
	if b.more != nil {
		close(b.more)
		b.more = nil
	}
	return b.buffer.Write(p)
}

func (b *lockedBuffer) read() (text string, more <-chan struct{}) {
	b.mutex.Lock()
	defer b.mutex.Unlock()
	if b.more == nil {
		b.more = make(chan struct{})
	}
	return b.buffer.String(), b.more
}

// Start starts a program; it is killed at the end of the test if it still runs.
func Start(t testing.TB, name string, args ...string) *Process {
	t.Helper()
	p := &Process{command: exec.Command(Build(t, name), args...), done: make(chan struct{})}
	p.command.Env = environment()
	p.command.Stdout, p.command.Stderr = &p.output, &p.output
	if err := p.command.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		_ = p.command.Wait()
		close(p.done)
	}()
	t.Cleanup(func() {
		p.Kill()
		if t.Failed() {
			t.Logf("%s said:\n%s", name, p.Output())
		}
	})
	return p
}

// Output is what the program has written so far.
func (p *Process) Output() string {
	text, _ := p.output.read()
	return text
}

// PID is the id of the process.
func (p *Process) PID() int { return p.command.Process.Pid }

// ResidentBytes is the memory that the process has (Linux).
func (p *Process) ResidentBytes(t testing.TB) int64 {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", p.command.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	var total, resident int64
	if _, err := fmt.Sscan(string(text), &total, &resident); err != nil {
		t.Fatal(err)
	}
	return resident * int64(os.Getpagesize())
}

// Kill ends the process with SIGKILL.
func (p *Process) Kill() {
	_ = p.command.Process.Signal(syscall.SIGKILL)
	<-p.done
}

// Stop ends the process with SIGTERM and returns its exit code.
func (p *Process) Stop(t testing.TB) int {
	t.Helper()
	_ = p.command.Process.Signal(syscall.SIGTERM)
	return p.Wait(t)
}

// Wait waits until the process ends by itself, and returns its exit code.
func (p *Process) Wait(t testing.TB) int {
	t.Helper()
	select {
	case <-p.done:
	case <-time.After(runTimeout):
		t.Fatalf("the process did not end:\n%s", p.Output())
	}
	return p.command.ProcessState.ExitCode()
}

// Signal sends the process a signal.
func (p *Process) Signal(t testing.TB, signal os.Signal) {
	t.Helper()
	if err := p.command.Process.Signal(signal); err != nil {
		t.Fatal(err)
	}
}

// pollEvery is how often /readyz is asked.
const pollEvery = 20 * time.Millisecond

// AwaitOutput waits until the process has written a text.
func (p *Process) AwaitOutput(t testing.TB, text string) {
	t.Helper()
	timeout := time.After(runTimeout)
	for {
		output, more := p.output.read()
		if strings.Contains(output, text) {
			return
		}
		select {
		case <-more:
		case <-p.done:
			t.Fatalf("it ended and did not say %q:\n%s", text, p.Output())
		case <-timeout:
			t.Fatalf("it did not say %q:\n%s", text, output)
		}
	}
}

// AwaitReady waits until a worker's /readyz answers 200.
func (p *Process) AwaitReady(t testing.TB, httpAddr string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), runTimeout)
	defer cancel()
	var last string
	for {
		request, _ := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+httpAddr+"/readyz", nil)
		response, err := http.DefaultClient.Do(request)
		if err == nil {
			_ = response.Body.Close()
			if response.StatusCode == http.StatusOK {
				return
			}
			last = response.Status
		} else {
			last = err.Error()
		}
		select {
		case <-ctx.Done():
			t.Fatalf("not ready: %s\n%s", last, p.Output())
		case <-p.done:
			t.Fatalf("it ended before it was ready:\n%s", p.Output())
		case <-time.After(pollEvery):
		}
	}
}

// FreeAddr is a loopback address that nobody listens at. Its port is one that Linux does not give to connections:
// one of these could take it before the program that it is for.
func FreeAddr(t testing.TB) string {
	t.Helper()
	const lowest, ports, tries = 20_000, 12_000, 100
	for range tries {
		listener, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(lowest+rand.IntN(ports))))
		if err == nil {
			defer listener.Close()
			return listener.Addr().String()
		}
	}
	t.Fatalf("no port from %d to %d is free", lowest, lowest+ports-1)
	return ""
}
