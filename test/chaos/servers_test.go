//go:build chaos

package chaos

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"tollgate/internal/proctest"
)

const startTimeout = 60 * time.Second

func until(t testing.TB, what string, done func() bool) {
	t.Helper()
	for deadline := time.Now().Add(startTimeout); !done(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within %v", what, startTimeout)
		}
	}
}

func portOf(addr string) string {
	_, port, _ := net.SplitHostPort(addr)
	return port
}

// kafkaServer is a real Kafka of a test's own.
type kafkaServer struct {
	addr       string
	advertised string // where clients are sent, "" for addr
}

const kafkaScript = "../../deploy/kafka/kafka.sh"

func startKafka(t testing.TB, advertised string) *kafkaServer {
	t.Helper()
	k := &kafkaServer{addr: proctest.FreeAddr(t), advertised: advertised}
	k.start(t)
	t.Cleanup(func() {
		_ = exec.Command(kafkaScript, "stop", portOf(k.addr)).Run()
		_ = os.RemoveAll(k.folder())
	})
	return k
}

func (k *kafkaServer) folder() string { return filepath.Join("../../.cache/kafka", portOf(k.addr)) }

func (k *kafkaServer) start(t testing.TB) {
	t.Helper()
	command := exec.Command(kafkaScript, "start", portOf(k.addr))
	if k.advertised != "" {
		command.Env = append(os.Environ(), "TOLLGATE_KAFKA_ADVERTISED="+k.advertised)
	}
	if output, err := command.Output(); err != nil {
		t.Fatalf("start Kafka: %v\n%s", err, output)
	}
}

// kill ends Kafka with SIGKILL.
func (k *kafkaServer) kill(t testing.TB) {
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
	until(t, "end of Kafka", func() bool {
		connection, err := net.DialTimeout("tcp", k.addr, time.Second)
		if err == nil {
			_ = connection.Close()
		}
		return err != nil
	})
}

// redisServer is a real redis-server, or a Sentinel, of a test's own.
type redisServer struct {
	addr    string
	folder  string
	flags   []string
	command *exec.Cmd
	client  *redis.Client
}

func startRedis(t testing.TB, flags ...string) *redisServer {
	t.Helper()
	return startRedisIn(t, t.TempDir(), flags...)
}

func startRedisIn(t testing.TB, folder string, flags ...string) *redisServer {
	t.Helper()
	r := &redisServer{addr: proctest.FreeAddr(t), folder: folder}
	r.flags = append([]string{
		"--bind", "127.0.0.1", "--port", portOf(r.addr), "--dir", folder, "--appendonly", "yes", "--appendfsync", "everysec", "--save", "",
		"--enable-debug-command", "local",
	}, flags...)
	r.client = redis.NewClient(&redis.Options{Addr: r.addr, MaxRetries: -1})
	r.start(t)
	t.Cleanup(func() {
		r.kill()
		_ = r.client.Close()
	})
	return r
}

func (r *redisServer) start(t testing.TB) {
	t.Helper()
	r.command = exec.Command("redis-server", r.flags...)
	if err := r.command.Start(); err != nil {
		t.Fatal(err)
	}
	until(t, "Redis", func() bool { return r.client.Ping(context.Background()).Err() == nil })
}

// kill ends Redis with SIGKILL.
func (r *redisServer) kill() {
	_ = r.command.Process.Kill()
	_ = r.command.Wait()
}

// startSentinels starts three Sentinels that watch a master under the name "main".
func startSentinels(t testing.TB, master *redisServer) (addrs []string) {
	t.Helper()
	for range 3 {
		addr, folder := proctest.FreeAddr(t), t.TempDir()
		file := filepath.Join(folder, "sentinel.conf")
		text := fmt.Sprintf("port %s\nbind 127.0.0.1\ndir %s\nsentinel monitor main 127.0.0.1 %s 2\nsentinel down-after-milliseconds main 1000\nsentinel failover-timeout main 4000\n",
			portOf(addr), folder, portOf(master.addr))
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
	until(t, "Sentinels", func() bool {
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

// startCluster starts a Redis Cluster of three primaries.
func startCluster(t testing.TB) (nodes []*redisServer) {
	t.Helper()
	args := []string{"--cluster", "create"}
	for range 3 {
		// The bus port must be free, too; the default of port + 10000 may pass the range.
		node := startRedis(t, "--cluster-enabled", "yes", "--cluster-port", portOf(proctest.FreeAddr(t)))
		nodes = append(nodes, node)
		args = append(args, node.addr)
	}
	output, err := exec.Command("redis-cli", append(args, "--cluster-replicas", "0", "--cluster-yes")...).CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, output)
	}
	until(t, "cluster", func() bool {
		for _, node := range nodes {
			if info, err := node.client.ClusterInfo(context.Background()).Result(); err != nil || !strings.Contains(info, "cluster_state:ok") {
				return false
			}
		}
		return true
	})
	return nodes
}
