//go:build chaos

package chaos

import (
	"context"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"tollgate/internal/proctest"
	"tollgate/internal/realtest"
	"tollgate/internal/servertest"
)

// beats cuts the time of a fault into equal parts and calls each at its moment; the last
// part is left for what comes after.
func beats(duration time.Duration, parts int, beat func(n int)) {
	ticker := time.NewTicker(duration / time.Duration(parts+1))
	defer ticker.Stop()
	for n := range parts {
		<-ticker.C
		beat(n)
	}
}

// withRedis plays a fault with some workers on a Redis of its own.
func withRedis(workers int, breaks func(s *scene, r *realtest.Redis, duration time.Duration)) func(*testing.T) (*scene, func(time.Duration)) {
	return func(t *testing.T) (*scene, func(time.Duration)) {
		r := realtest.StartRedis(t)
		s := sharedScene(t, "--redis-addrs", r.Addr)
		s.startWorkers(none(workers)...)
		return s, func(duration time.Duration) { breaks(s, r, duration) }
	}
}

var faults = []fault{
	{name: "nothing", play: withRedis(3, func(s *scene, _ *realtest.Redis, duration time.Duration) {
		beats(duration, 1, func(int) { s.mark() })
	})},
	{name: "one of three workers killed, again and again", differs: true, play: withRedis(3, func(s *scene, _ *realtest.Redis, duration time.Duration) {
		beats(duration, 4, func(n int) {
			s.restart(n % 3)
			s.mark()
		})
	})},
	{name: "a worker frozen for longer than its session, then thawed", play: withRedis(3, func(s *scene, _ *realtest.Redis, duration time.Duration) {
		beats(duration, 3, func(n int) {
			if n == 0 {
				s.workers[0].Signal(s.T, syscall.SIGSTOP)
			} else if n == 1 {
				s.workers[0].Signal(s.T, syscall.SIGCONT)
				s.mark()
			}
		})
	})},
	{name: "a worker frozen for longer than its session, under a backlog", play: frozenUnderBacklog, differs: true},
	{name: "workers joining and leaving", play: withRedis(2, func(s *scene, _ *realtest.Redis, duration time.Duration) {
		var guests []*proctest.Process
		beats(duration, 4, func(n int) {
			if n%2 == 0 {
				guest, _ := s.d.Start(s.T)
				guests = append(guests, guest)
			} else {
				guests[n/2].AwaitOutput(s.T, "joined the group")
				s.stop(guests[n/2])
			}
			s.mark()
		})
	})},
	{name: "Redis killed, and restarted from its append-only file", play: withRedis(3, func(s *scene, r *realtest.Redis, duration time.Duration) {
		beats(duration, 2, func(int) {
			r.Kill()
			r.Start(s.T)
			s.mark()
		})
	})},
	{name: "Redis paused (CLIENT PAUSE, DEBUG SLEEP)", play: withRedis(3, func(s *scene, r *realtest.Redis, duration time.Duration) {
		beats(duration, 2, func(n int) {
			var err error
			if n == 0 {
				err = r.Client.Do(s.Context(), "CLIENT", "PAUSE", 2000).Err()
			} else {
				err = r.Client.WithTimeout(10*time.Second).Do(s.Context(), "DEBUG", "SLEEP", 2).Err()
			}
			if err != nil {
				s.Error(err)
			}
			s.mark()
		})
	})},
	{name: "SCRIPT FLUSH, five times", play: withRedis(3, func(s *scene, r *realtest.Redis, duration time.Duration) {
		beats(duration, 5, func(int) {
			if err := r.Client.ScriptFlush(s.Context()).Err(); err != nil {
				s.Error(err)
			}
			s.mark()
		})
	})},
	{name: "Redis's disk full (MISCONF)", play: diskFull},
	{name: "any command inside a script refused, at random", play: commandsRefused},
	{name: "Redis failover by Sentinel, --redis-wait-replicas 1", play: failover},
	{name: "a Redis Cluster with slots migrating", play: migratingSlots},
	{name: "Kafka killed and restarted", play: kafkaKilled, differs: true},
	{name: "a truncated log", play: truncatedLog(false)},
	{name: "a truncated log that has grown again", play: truncatedLog(true)},
	{name: "topics deleted and made again", play: topicsMadeAgain},
	{name: "a reply topic deleted", play: replyTopicDeleted},
	{name: "three brokers, the leader killed", play: clusterFault(leaderKilled), differs: true},
	{name: "three brokers, too few in sync", play: clusterFault(tooFewInSync)},
	{name: "connections to Redis cut in the middle of responses", play: redisCut},
	{name: "connections to Kafka cut in the middle of responses", play: kafkaCut},
	{name: "clocks apart by an hour, partitions moving between them", play: clocksApart, resets: true},
}

// diskFull fills the file system that Redis's append-only file is on.
func diskFull(t *testing.T) (*scene, func(time.Duration)) {
	folder := t.TempDir()
	if err := syscall.Mount("tmpfs", folder, "tmpfs", 0, "size=96m"); err != nil {
		t.Fatalf("mount (this fault needs root): %v", err)
	}
	t.Cleanup(func() { _ = syscall.Unmount(folder, 0) })
	r := realtest.StartRedisIn(t, folder, "--auto-aof-rewrite-percentage", "0")
	s := sharedScene(t, "--redis-addrs", r.Addr)
	s.startWorkers(none(3)...)
	return s, func(duration time.Duration) {
		filler := filepath.Join(folder, "filler")
		beats(duration, 2, func(n int) {
			if n == 1 {
				if err := os.Remove(filler); err != nil {
					t.Error(err)
				}
				s.mark()
				return
			}
			if err := os.WriteFile(filler, make([]byte, 96<<20), 0o600); err == nil {
				t.Error("the disk did not fill")
			}
			realtest.Until(t, "MISCONF", func() bool {
				err := r.Client.Set(context.Background(), "probe", "x", 0).Err()
				return err != nil && strings.HasPrefix(err.Error(), "MISCONF")
			})
		})
	}
}

// failover kills the master, waits for Sentinel to make the replica the master, and
// brings the old one back as a replica.
func failover(t *testing.T) (*scene, func(time.Duration)) {
	master := realtest.StartRedis(t)
	replica := realtest.StartRedis(t, "--replicaof", "127.0.0.1 "+realtest.Port(master.Addr))
	sentinels := realtest.StartSentinels(t, master)
	s := sharedScene(t, "--redis-addrs", strings.Join(sentinels, ","), "--redis-master", "main", "--redis-wait-replicas", "1", "--redis-wait-timeout", "1s")
	s.startWorkers(none(3)...)
	return s, func(duration time.Duration) {
		beats(duration, 2, func(n int) {
			if n == 0 {
				master.Kill()
				realtest.Until(t, "failover", func() bool {
					role, err := replica.Client.Do(context.Background(), "ROLE").Slice()
					return err == nil && role[0] == "master"
				})
				return
			}
			master.Start(t)
			s.mark()
		})
	}
}

// migratingSlots moves slots from the first primary to the second, key by key.
func migratingSlots(t *testing.T) (*scene, func(time.Duration)) {
	nodes := realtest.StartCluster(t)
	var addrs []string
	for _, node := range nodes {
		addrs = append(addrs, node.Addr)
	}
	s := sharedScene(t, "--redis-addrs", strings.Join(addrs, ","))
	s.startWorkers(none(3)...)
	return s, func(duration time.Duration) {
		beats(duration, 2, func(n int) {
			moveSlots(s, nodes[0], nodes[1], 400*n, 400*n+400)
			s.mark()
		})
	}
}

func moveSlots(s *scene, from, to *realtest.Redis, first, end int) {
	s.Helper()
	ctx := context.Background()
	fromID, toID := from.Client.ClusterMyID(ctx).Val(), to.Client.ClusterMyID(ctx).Val()
	moved := 0
	for slot := first; slot < end; slot++ {
		must := func(err error) {
			if err != nil {
				s.Fatalf("slot %d: %v", slot, err)
			}
		}
		must(to.Client.Do(ctx, "CLUSTER", "SETSLOT", slot, "IMPORTING", fromID).Err())
		must(from.Client.Do(ctx, "CLUSTER", "SETSLOT", slot, "MIGRATING", toID).Err())
		for {
			keys, err := from.Client.ClusterGetKeysInSlot(ctx, slot, 10).Result()
			must(err)
			if len(keys) == 0 {
				break
			}
			moved += len(keys)
			args := []any{"MIGRATE", "127.0.0.1", realtest.Port(to.Addr), "", 0, 5000, "KEYS"}
			for _, key := range keys {
				args = append(args, key)
			}
			must(from.Client.Do(ctx, args...).Err())
		}
		for _, node := range []*realtest.Redis{to, from} {
			must(node.Client.Do(ctx, "CLUSTER", "SETSLOT", slot, "NODE", toID).Err())
		}
	}
	if moved == 0 {
		s.Error("no key was moved: " + strconv.Itoa(first))
	}
}

func kafkaKilled(t *testing.T) (*scene, func(time.Duration)) {
	k, r := realtest.StartKafka(t, realtest.KafkaOptions{}), realtest.StartRedis(t)
	s := newScene(t, servertest.BrokerAt(t, k.Addr), "--redis-addrs", r.Addr)
	s.startWorkers(none(3)...)
	return s, func(duration time.Duration) {
		beats(duration, 1, func(int) {
			k.Kill(t)
			k.Start(t)
			s.mark()
		})
	}
}

func redisCut(t *testing.T) (*scene, func(time.Duration)) {
	r := realtest.StartRedis(t)
	p := startProxy(t, "127.0.0.1:0", r.Addr)
	s := sharedScene(t, "--redis-addrs", p.addr())
	s.startWorkers(none(3)...)
	return s, func(duration time.Duration) { cut(s, p, duration) }
}

func kafkaCut(t *testing.T) (*scene, func(time.Duration)) {
	front := proctest.FreeAddr(t)
	k, r := realtest.StartKafka(t, realtest.KafkaOptions{Advertised: front}), realtest.StartRedis(t)
	p := startProxy(t, front, k.Addr)
	s := newScene(t, servertest.BrokerAt(t, front), "--redis-addrs", r.Addr)
	s.startWorkers(none(3)...)
	return s, func(duration time.Duration) { cut(s, p, duration) }
}

// cut has a proxy cut connections for the middle of a load.
func cut(s *scene, p *proxy, duration time.Duration) {
	s.Helper()
	beats(duration, 2, func(n int) {
		p.setCutting(n == 0)
		if n == 1 {
			s.mark()
		}
	})
	p.mutex.Lock()
	defer p.mutex.Unlock()
	if p.cuts == 0 {
		s.Error("no connection was cut")
	}
	s.Logf("%d connections were cut", p.cuts)
}

// clocksApart lets all partitions go to a worker whose clock is ahead, which resets what is
// due an hour later, and then to one whose clock is right.
func clocksApart(t *testing.T) (*scene, func(time.Duration)) {
	r := realtest.StartRedis(t)
	s := sharedScene(t, "--redis-addrs", r.Addr)
	s.reset = `,"reset":{"interval":"hour"}`
	s.startWorkers([]string{"--clock-offset", "1h"}, nil)
	return s, func(duration time.Duration) {
		beats(duration, 4, func(n int) {
			worker := 1 - n/2
			if n%2 == 0 {
				s.stop(s.workers[worker].Process)
			} else {
				s.startWorker(worker)
			}
			s.mark()
		})
	}
}
