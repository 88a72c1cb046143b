//go:build chaos

package chaos

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"tollgate/internal/realtest"
)

// everyBatch are the commands that deciding a batch needs.
var everyBatch = []string{"evalsha", "mget", "mset", "hget", "hset", "hkeys"}

// refusable are all commands that are taken away: those, and what only some batches need: a script that
// was lost, records that come again, idempotency keys, customers that do not exist, what is committed.
var refusable = append([]string{"script|load", "get", "set", "hdel", "hgetall", "pexpire", "unlink"}, everyBatch...)

const (
	shortestRefusal = 20 * time.Millisecond
	longestRefusal  = 250 * time.Millisecond
	longestRelief   = 100 * time.Millisecond
)

// commandsRefused gives the workers a Redis user of their own, and takes one command after the other
// away from it, so that scripts fail at any of their commands, behind what they have done already.
func commandsRefused(t *testing.T) (*scene, func(time.Duration)) {
	const user, password = "worker", "secret"
	r := realtest.StartRedis(t)
	allow := func(rules ...any) {
		if err := r.Client.Do(context.Background(), append([]any{"ACL", "SETUSER", user}, rules...)...).Err(); err != nil {
			t.Error(err)
		}
	}
	allow("on", ">"+password, "~*", "&*", "+@all")
	s := sharedScene(t, "--redis-addrs", r.Addr, "--redis-username", user, "--redis-password", password)
	s.varied = true
	s.afterwards = func() { nothingForGood(s, r) }
	s.startWorkers(none(3)...)
	return s, func(duration time.Duration) {
		taken := map[string]int{}
		var deck []string
		for end := time.Now().Add(duration * 4 / 5); time.Now().Before(end); {
			if len(deck) == 0 {
				deck = slices.Clone(refusable)
				rand.Shuffle(len(deck), func(i, j int) { deck[i], deck[j] = deck[j], deck[i] })
			}
			command := deck[0]
			deck = deck[1:]
			taken[command]++
			allow("-" + command)
			if command == "script|load" { // nobody asks for it as long as the scripts are there
				if err := r.Client.ScriptFlush(context.Background()).Err(); err != nil {
					t.Error(err)
				}
			}
			time.Sleep(shortestRefusal + rand.N(longestRefusal-shortestRefusal))
			allow("+" + command)
			time.Sleep(rand.N(longestRelief))
		}
		s.mark()
		reportRefusals(s, r, taken)
	}
}

// reportRefusals says how often each command was taken away, and how often Redis refused it then. It
// fails where the fault has not happened.
func reportRefusals(s *scene, r *realtest.Redis, taken map[string]int) {
	s.Helper()
	stats, err := r.Client.Info(s.Context(), "commandstats", "errorstats").Result()
	if err != nil {
		s.Fatal(err)
	}
	times, calls := 0, 0
	var lines []string
	for _, command := range refusable {
		refused := stat(stats, "cmdstat_"+command, "rejected_calls")
		times, calls = times+taken[command], calls+refused
		lines = append(lines, fmt.Sprintf("%s %d times, %d calls", command, taken[command], refused))
		if refused == 0 && slices.Contains(everyBatch, command) {
			s.Errorf("%s was taken away %d times, and never refused", command, taken[command])
		}
	}
	failed := stat(stats, "cmdstat_evalsha", "failed_calls") - stat(stats, "errorstat_NOSCRIPT", "count")
	if failed <= 0 {
		s.Error("no script failed")
	}
	s.Logf("a command was taken away %d times, %d calls were refused, %d scripts failed on the way: %s",
		times, calls, failed, strings.Join(lines, "; "))
}

// stat is a number of a line of INFO's statistics, 0 where there is none.
func stat(stats, about, name string) int {
	for line := range strings.Lines(stats) {
		if values, ok := strings.CutPrefix(line, about+":"); ok {
			for value := range strings.SplitSeq(strings.TrimSpace(values), ",") {
				if digits, ok := strings.CutPrefix(value, name+"="); ok {
					n, _ := strconv.Atoi(digits)
					return n
				}
			}
		}
	}
	return 0
}

// nothingForGood holds that idempotency keys, and what is left of customers that nobody knows, come
// to an end, although PEXPIRE was refused.
func nothingForGood(s *scene, r *realtest.Redis) {
	s.Helper()
	looked := 0
	for _, pattern := range []string{"*{customer-*}:i:*", "*{" + strangerName("*") + "}*"} {
		var keys []string
		for all := r.Client.Scan(s.Context(), 0, pattern, 10_000).Iterator(); all.Next(s.Context()); {
			keys = append(keys, all.Val())
		}
		ends, err := r.Client.Pipelined(s.Context(), func(pipe redis.Pipeliner) error {
			for _, key := range keys {
				pipe.PTTL(s.Context(), key)
			}
			return nil
		})
		if err != nil && len(keys) > 0 {
			s.Fatal(err)
		}
		for i, end := range ends {
			if end.(*redis.DurationCmd).Val() == -1 { // -2: it has ended since
				s.complain("%s is kept for good", keys[i])
			}
		}
		looked += len(keys)
	}
	if looked == 0 {
		s.Error("there are no keys that end")
	}
}
