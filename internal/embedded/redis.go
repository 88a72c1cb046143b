package embedded

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"
)

// Redis is a Redis of our own: a redis-server as a child process, or one in this
// process.
type Redis struct {
	Addr string
	// Kind says which: "redis-server 7.0.15", or "in-process".
	Kind  string
	close func()
}

// Close stops the server; what it held is gone.
func (r *Redis) Close() { r.close() }

// StartRedis starts a redis-server from PATH at a loopback address, or one in
// this process where there is none. It fails with ErrAddressTaken or
// ErrNotLoopback.
func StartRedis(ctx context.Context, addr string) (*Redis, error) {
	program, err := exec.LookPath("redis-server")
	if err != nil {
		return StartMiniRedis(addr)
	}
	return startRedisServer(ctx, program, addr)
}

// StartMiniRedis starts a Redis in this process. It fails as StartRedis does.
func StartMiniRedis(addr string) (*Redis, error) {
	if _, err := loopbackPort(addr); err != nil {
		return nil, err
	}
	server := miniredis.NewMiniRedis()
	if err := server.StartAddr(addr); err != nil {
		return nil, fmt.Errorf("embedded redis at %s: %w", addr, taken(err))
	}
	return &Redis{Addr: server.Addr(), Kind: "in-process", close: sync.OnceFunc(server.Close)}, nil
}

const (
	startTimeout = 10 * time.Second
	stopTimeout  = 5 * time.Second
)

func startRedisServer(ctx context.Context, program, addr string) (*Redis, error) {
	if _, err := loopbackPort(addr); err != nil {
		return nil, err
	}
	// Whoever listens there already would answer in the place of our child.
	probe, err := net.Listen("tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("embedded redis at %s: %w", addr, taken(err))
	}
	addr = probe.Addr().String()
	if err := probe.Close(); err != nil {
		return nil, fmt.Errorf("embedded redis at %s: %w", addr, err)
	}
	host, port, _ := net.SplitHostPort(addr)
	command := exec.Command(program, "--bind", host, "--port", port, "--save", "", "--appendonly", "no", "--daemonize", "no")
	// Ctrl-C reaches the whole terminal; the child must outlive our last batch. It
	// must not outlive us, though.
	command.SysProcAttr = childAttributes()
	var output strings.Builder
	command.Stdout, command.Stderr = &output, &output
	if err := command.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", program, err)
	}
	exited := make(chan error, 1)
	go func() { exited <- command.Wait() }()
	stop := sync.OnceFunc(func() {
		_ = command.Process.Signal(syscall.SIGTERM)
		select {
		case <-exited:
		case <-time.After(stopTimeout):
			_ = command.Process.Kill()
			<-exited
		}
	})
	version, err := awaitRedis(ctx, addr, exited)
	if err != nil {
		stop()
		return nil, fmt.Errorf("start %s at %s: %w\n%s", program, addr, err, output.String())
	}
	return &Redis{Addr: addr, Kind: "redis-server " + version, close: stop}, nil
}

// awaitRedis waits until the server answers, and returns its version.
func awaitRedis(ctx context.Context, addr string, exited chan error) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	client := redis.NewClient(&redis.Options{Addr: addr, MaxRetries: -1})
	defer client.Close()
	for {
		info, err := client.Info(ctx, "server").Result()
		if err == nil {
			return redisVersion(info), nil
		}
		select {
		case err := <-exited:
			exited <- err
			return "", errors.Join(errors.New("it ended at once"), err)
		case <-ctx.Done():
			return "", err
		case <-time.After(10 * time.Millisecond):
		}
	}
}

func redisVersion(info string) string {
	_, rest, _ := strings.Cut(info, "redis_version:")
	version, _, _ := strings.Cut(rest, "\r\n")
	return version
}
