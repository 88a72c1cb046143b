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
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"tollgate/internal/proctest"
)

const (
	startTimeout = 2 * time.Minute // on a machine that has much else to do
	pollEvery    = 20 * time.Millisecond
)

// Until waits for a condition that nothing announces.
func Until(t testing.TB, what string, done func() bool) {
	t.Helper()
	UntilWithin(t, startTimeout, what, done)
}

// UntilWithin is Until with a patience of its own.
func UntilWithin(t testing.TB, patience time.Duration, what string, done func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !done(); time.Sleep(pollEvery) {
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

// Freeze stops Redis, and Thaw has it go on: connections to it stay, and nothing answers.
func (r *Redis) Freeze(t testing.TB) { r.signal(t, syscall.SIGSTOP) }

// Thaw ends a Freeze.
func (r *Redis) Thaw(t testing.TB) { r.signal(t, syscall.SIGCONT) }

func (r *Redis) signal(t testing.TB, signal syscall.Signal) {
	t.Helper()
	if err := r.command.Process.Signal(signal); err != nil {
		t.Fatal(err)
	}
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
