package realtest

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"tollgate/internal/proctest"
)

// Kafka is a real Kafka of a test's own, or one broker of a KafkaCluster.
type Kafka struct {
	Addr string
	env  []string
	// answers is false while it is stopped or frozen.
	answers atomic.Bool
}

// root is the folder of the project: tests run in those of their packages.
var root = sync.OnceValue(func() string {
	folder := "."
	for {
		if _, err := os.Stat(filepath.Join(folder, "go.mod")); err == nil {
			return folder
		}
		folder = filepath.Join(folder, "..")
	}
})

func kafkaScript() string { return filepath.Join(root(), "deploy/kafka/kafka.sh") }

// KafkaOptions are what a Kafka has beyond deploy/kafka/server.properties.
type KafkaOptions struct {
	Advertised string // where clients are sent, "" for where it listens
	// Properties makes further properties for a Kafka at an address.
	Properties func(addr string) string
	Format     string // further arguments of the format tool
	JVM        string // further options of Java
	Heap       string // the most memory that it takes, "" for what kafka.sh gives it
}

// StartKafka starts a Kafka.
func StartKafka(t testing.TB, options KafkaOptions) *Kafka {
	t.Helper()
	k := newKafka(t, freeKafkaAddr(t), options)
	k.Start(t)
	t.Cleanup(k.discard)
	return k
}

// newKafka is a Kafka that is not started yet.
func newKafka(t testing.TB, addr string, options KafkaOptions) *Kafka {
	t.Helper()
	k := &Kafka{Addr: addr, env: os.Environ()}
	k.env = append(k.env, "TOLLGATE_KAFKA_ADVERTISED="+options.Advertised, "TOLLGATE_KAFKA_FORMAT="+options.Format, "TOLLGATE_KAFKA_JVM="+options.JVM, "TOLLGATE_KAFKA_HEAP="+options.Heap)
	if options.Properties != nil {
		file := filepath.Join(t.TempDir(), "properties")
		if err := os.WriteFile(file, []byte(options.Properties(k.Addr)), 0o600); err != nil {
			t.Fatal(err)
		}
		k.env = append(k.env, "TOLLGATE_KAFKA_PROPERTIES="+file)
	}
	return k
}

// discard ends it, whatever its state, and removes what it held.
func (k *Kafka) discard() {
	if pid, err := k.pid(); err == nil {
		_ = syscall.Kill(pid, syscall.SIGKILL) // also ends what is frozen
		for deadline := time.Now().Add(startTimeout); k.listens() && time.Now().Before(deadline); {
			time.Sleep(pollEvery)
		}
	}
	_ = os.RemoveAll(k.folder())
}

func (k *Kafka) listens() bool {
	connection, err := net.DialTimeout("tcp", k.Addr, time.Second)
	if err == nil {
		_ = connection.Close()
	}
	return err == nil
}

func (k *Kafka) pidFile() string { return filepath.Join(k.folder(), "pid") }

func (k *Kafka) folder() string { return filepath.Join(root(), ".cache/kafka", Port(k.Addr)) }

func (k *Kafka) pid() (int, error) {
	text, err := os.ReadFile(k.pidFile())
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(strings.TrimSpace(string(text)))
}

// freeKafkaAddr is an address where nobody listens, nor where the controller would.
func freeKafkaAddr(t testing.TB) string {
	t.Helper()
	for {
		addr := proctest.FreeAddr(t)
		if listener, err := net.Listen("tcp", ControllerAddr(addr)); err == nil {
			_ = listener.Close()
			return addr
		}
	}
}

// ControllerAddr is where kafka.sh has the controller of a Kafka listen.
func ControllerAddr(addr string) string {
	port, _ := strconv.Atoi(Port(addr))
	return net.JoinHostPort("127.0.0.1", strconv.Itoa(port+1))
}

// Start starts Kafka again after Kill or Stop.
func (k *Kafka) Start(t testing.TB) {
	t.Helper()
	if err := k.start(); err != nil {
		t.Fatal(err)
	}
	// It listens before it is one of the cluster's brokers. Who asks it then learns that there are none.
	Until(t, "Kafka at "+k.Addr+" in its cluster", func() bool { return k.known() > 0 })
}

func (k *Kafka) start() error {
	if err := k.script("start"); err != nil {
		return err
	}
	k.answers.Store(true)
	return nil
}

// Stop ends Kafka as an operator does (SIGTERM): it flushes its log, and hands its partitions over.
func (k *Kafka) Stop(t testing.TB) {
	t.Helper()
	k.answers.Store(false)
	if err := k.script("stop"); err != nil {
		t.Fatal(err)
	}
}

// Kill ends Kafka with SIGKILL.
func (k *Kafka) Kill(t testing.TB) {
	t.Helper()
	k.answers.Store(false)
	k.signal(t, syscall.SIGKILL)
	Until(t, "end of Kafka", func() bool { return !k.listens() })
	// Its id may soon be another process's, which must not get the next signal.
	if err := os.Remove(k.pidFile()); err != nil {
		t.Fatal(err)
	}
}

// Freeze stops Kafka in its tracks (SIGSTOP): its connections stay, and nothing answers. When it
// returns, all of its threads stand still.
func (k *Kafka) Freeze(t testing.TB) {
	t.Helper()
	k.answers.Store(false)
	k.signal(t, syscall.SIGSTOP)
	// One thread takes the signal and stops the others. On a busy machine these work on for a while,
	// and a follower may still fetch what it must not have.
	Until(t, "Kafka at "+k.Addr+" frozen", func() bool {
		pid, err := k.pid()
		return err == nil && standsStill(pid)
	})
}

// standsStill says whether all threads of a process are stopped (Linux).
func standsStill(pid int) bool {
	threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", pid))
	if err != nil || len(threads) == 0 {
		return false
	}
	for _, thread := range threads {
		text, err := os.ReadFile(thread)
		if err != nil {
			return false
		}
		// The state is what follows the name, which is in brackets and may have any character.
		if end := strings.LastIndex(string(text), ") "); end < 0 || !strings.HasPrefix(string(text[end+2:]), "T") {
			return false
		}
	}
	return true
}

// Thaw has a frozen Kafka go on.
func (k *Kafka) Thaw(t testing.TB) {
	t.Helper()
	k.signal(t, syscall.SIGCONT)
	k.answers.Store(true)
}

func (k *Kafka) signal(t testing.TB, signal syscall.Signal) {
	t.Helper()
	pid, err := k.pid()
	if err == nil {
		err = syscall.Kill(pid, signal)
	}
	if err != nil {
		t.Fatal(err)
	}
}

func (k *Kafka) script(verb string) error {
	command := exec.Command(kafkaScript(), verb, Port(k.Addr))
	command.Env = k.env
	var stderr strings.Builder
	command.Stderr = &stderr // not stdout, which Kafka would keep open
	if err := command.Run(); err != nil {
		return fmt.Errorf("%s Kafka at %s: %w\n%s", verb, k.Addr, err, stderr.String())
	}
	return nil
}
