// Package realtest starts real servers for tests that harm or configure them: a Kafka of
// deploy/kafka, redis-server, Sentinels, a Redis Cluster. Each is the test's own, listens on
// loopback only, and ends with the test.
package realtest

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"tollgate/internal/proctest"
)

const startTimeout = 60 * time.Second

// Until waits for a condition that nothing announces.
func Until(t testing.TB, what string, done func() bool) {
	t.Helper()
	UntilWithin(t, startTimeout, what, done)
}

// UntilWithin is Until with a patience of its own.
func UntilWithin(t testing.TB, patience time.Duration, what string, done func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !done(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within %v", what, patience)
		}
	}
}

// Port is the port of an address.
func Port(addr string) string {
	_, port, _ := net.SplitHostPort(addr)
	return port
}

// Kafka is a real Kafka of a test's own.
type Kafka struct {
	Addr string
	env  []string
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
}

// StartKafka starts a Kafka.
func StartKafka(t testing.TB, options KafkaOptions) *Kafka {
	t.Helper()
	k := &Kafka{Addr: freeKafkaAddr(t), env: os.Environ()}
	k.env = append(k.env, "TOLLGATE_KAFKA_ADVERTISED="+options.Advertised, "TOLLGATE_KAFKA_FORMAT="+options.Format, "TOLLGATE_KAFKA_JVM="+options.JVM)
	if options.Properties != nil {
		file := filepath.Join(t.TempDir(), "properties")
		if err := os.WriteFile(file, []byte(options.Properties(k.Addr)), 0o600); err != nil {
			t.Fatal(err)
		}
		k.env = append(k.env, "TOLLGATE_KAFKA_PROPERTIES="+file)
	}
	k.Start(t)
	t.Cleanup(func() {
		_ = exec.Command(kafkaScript(), "stop", Port(k.Addr)).Run()
		_ = os.RemoveAll(k.folder())
	})
	return k
}

func (k *Kafka) folder() string { return filepath.Join(root(), ".cache/kafka", Port(k.Addr)) }

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

// Start starts Kafka again after Kill.
func (k *Kafka) Start(t testing.TB) {
	t.Helper()
	command := exec.Command(kafkaScript(), "start", Port(k.Addr))
	command.Env = k.env
	var stderr strings.Builder
	command.Stderr = &stderr // not stdout, which Kafka would keep open
	if err := command.Run(); err != nil {
		t.Fatalf("start Kafka: %v\n%s", err, stderr.String())
	}
}

// Kill ends Kafka with SIGKILL.
func (k *Kafka) Kill(t testing.TB) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(k.folder(), "pid"))
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	Until(t, "end of Kafka", func() bool {
		connection, err := net.DialTimeout("tcp", k.Addr, time.Second)
		if err == nil {
			_ = connection.Close()
		}
		return err != nil
	})
}

// Redis is a real redis-server of a test's own.
type Redis struct {
	Addr    string
	Client  *redis.Client
	flags   []string
	command *exec.Cmd
}

// StartRedis starts a Redis with further flags.
func StartRedis(t testing.TB, flags ...string) *Redis {
	t.Helper()
	return StartRedisIn(t, t.TempDir(), flags...)
}

// StartRedisIn is StartRedis with its data in a folder.
func StartRedisIn(t testing.TB, folder string, flags ...string) *Redis {
	t.Helper()
	r := &Redis{Addr: proctest.FreeAddr(t)}
	r.flags = append([]string{
		"--bind", "127.0.0.1", "--port", Port(r.Addr), "--dir", folder, "--appendonly", "yes", "--appendfsync", "everysec", "--save", "",
		"--enable-debug-command", "local",
	}, flags...)
	r.Client = redis.NewClient(&redis.Options{Addr: r.Addr, MaxRetries: -1})
	r.Start(t)
	t.Cleanup(func() {
		r.Kill()
		_ = r.Client.Close()
	})
	return r
}

// Start starts Redis again after Kill.
func (r *Redis) Start(t testing.TB) {
	t.Helper()
	r.command = exec.Command("redis-server", r.flags...)
	if err := r.command.Start(); err != nil {
		t.Fatal(err)
	}
	Until(t, "Redis", func() bool { return r.Client.Ping(context.Background()).Err() == nil })
}

// Kill ends Redis with SIGKILL.
func (r *Redis) Kill() {
	_ = r.command.Process.Kill()
	_ = r.command.Wait()
}

// StartSentinels starts three Sentinels that watch a master under the name "main".
func StartSentinels(t testing.TB, master *Redis) (addrs []string) {
	t.Helper()
	for range 3 {
		addr, folder := proctest.FreeAddr(t), t.TempDir()
		file := filepath.Join(folder, "sentinel.conf")
		text := fmt.Sprintf("port %s\nbind 127.0.0.1\ndir %s\nsentinel monitor main 127.0.0.1 %s 2\nsentinel down-after-milliseconds main 1000\nsentinel failover-timeout main 4000\n",
			Port(addr), folder, Port(master.Addr))
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		command := exec.Command("redis-server", file, "--sentinel")
		if err := command.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			_ = command.Process.Kill()
			_ = command.Wait()
		})
		addrs = append(addrs, addr)
	}
	Until(t, "Sentinels", func() bool {
		for _, addr := range addrs {
			s := redis.NewSentinelClient(&redis.Options{Addr: addr, MaxRetries: -1})
			info, err := s.Master(context.Background(), "main").Result()
			_ = s.Close()
			if err != nil || info["num-slaves"] != "1" || info["num-other-sentinels"] != "2" {
				return false
			}
		}
		return true
	})
	return addrs
}

// StartCluster starts a Redis Cluster of three primaries.
func StartCluster(t testing.TB) (nodes []*Redis) {
	t.Helper()
	args := []string{"--cluster", "create"}
	for range 3 {
		// The bus port must be free, too; the default of port + 10000 may pass the range.
		node := StartRedis(t, "--cluster-enabled", "yes", "--cluster-port", Port(proctest.FreeAddr(t)))
		nodes = append(nodes, node)
		args = append(args, node.Addr)
	}
	output, err := exec.Command("redis-cli", append(args, "--cluster-replicas", "0", "--cluster-yes")...).CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, output)
	}
	Until(t, "cluster", func() bool {
		for _, node := range nodes {
			if info, err := node.Client.ClusterInfo(context.Background()).Result(); err != nil || !strings.Contains(info, "cluster_state:ok") {
				return false
			}
		}
		return true
	})
	return nodes
}
