//go:build bench

package cost

import (
	"context"
	"net"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
)

// server is a redis-server that does nothing else. It is started here rather than by
// internal/realtest, so that the measurement needs as little as possible of either commit.
type server struct {
	*testing.T
	client *redis.Client
}

func startRedis(t *testing.T) *server {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := listener.Addr().String()
	_ = listener.Close()
	_, port, _ := net.SplitHostPort(addr)
	// A rewrite of the append-only file in the middle of a round would be counted as checks.
	command := exec.Command("redis-server", "--bind", "127.0.0.1", "--port", port, "--dir", t.TempDir(),
		"--save", "", "--appendonly", "yes", "--appendfsync", "everysec", "--auto-aof-rewrite-percentage", "0")
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	client := redis.NewClient(&redis.Options{Addr: addr, MaxRetries: -1, ReadTimeout: time.Minute})
	t.Cleanup(func() {
		_ = client.Close()
		_ = command.Process.Kill()
		_ = command.Wait()
	})
	for deadline := time.Now().Add(10 * time.Second); client.Ping(context.Background()).Err() != nil; time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("redis-server does not start")
		}
	}
	return &server{t, client}
}

// info is a number of Redis's INFO.
func (s *server) info(section, name string) float64 {
	s.Helper()
	text, err := s.client.Info(s.Context(), section).Result()
	if err != nil {
		s.Fatal(err)
	}
	_, rest, _ := strings.Cut(text, "\n"+name+":")
	line, _, _ := strings.Cut(rest, "\r\n")
	value, err := strconv.ParseFloat(line, 64)
	if err != nil {
		s.Fatalf("INFO %s has no %s", section, name)
	}
	return value
}

// cpuMicros is the processor time that Redis has used, all its threads.
func (s *server) cpuMicros() float64 {
	s.Helper()
	return 1e6 * (s.info("cpu", "used_cpu_user") + s.info("cpu", "used_cpu_sys"))
}

func (s *server) usedBytes() float64 {
	s.Helper()
	return s.info("memory", "used_memory")
}
