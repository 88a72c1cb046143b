package store

import (
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/redis/go-redis/v9"

	"tollgate/internal/balance"
	"tollgate/internal/embedded"
	"tollgate/internal/servertest"
)

// rights are the commands that scripts use, and some that they do not.
var rights = []string{
	"mget", "mset", "get", "set", "hset", "hget", "hkeys", "hdel", "hgetall", "pexpire", "unlink", "evalsha", "script", "append", "getrange", "del",
}

// TestARightThatIsMissingCostsNobodyTwice is fault 3: what could be written was, what proves it was not, and
// every try deducted again.
func TestARightThatIsMissingCostsNobodyTwice(t *testing.T) {
	for _, right := range rights {
		t.Run(right, func(t *testing.T) {
			onBothLedgers(t, func(t *testing.T, f *fixture) {
				u := f.newUser()
				if u == nil {
					return
				}
				f.run(f.check(1, true)) // whose outcome is to be forgotten by the next
				check := f.deduct(withKey(f.step(), "k"), "m", 2)
				check.committed = f.offset
				u.allow("-" + right)
				missing := f.tries(u.store, check)
				u.allow("+" + right)
				first := f.deliver(check)[0]
				if code := f.outcome(first).Code; code != balance.Included {
					t.Errorf("%s, behind %v", code, missing)
				}
				f.mustReplay("redelivered", []Call{check}, []Reply{first})
				if left := f.left(); left != 7 {
					t.Errorf("%d left, want 7", left)
				}
				if end := f.client.PTTL(t.Context(), check.answerKey).Val(); end <= 0 {
					t.Error("the idempotency key has no end")
				}
				f.mustForget(u, right)
			})
		})
	}
}

// mustForget has outcomes forgotten by a user who lacks a right, then by the same with it.
func (f *fixture) mustForget(u *user, right string) {
	f.Helper()
	u.allow("-" + right)
	_ = u.store.Forget(f.Context(), source, f.offset+1, []string{"c"})
	u.allow("+" + right)
	before := f.left()
	f.forget("c")
	if left := f.left(); left != before {
		f.Errorf("%d left, then %d", before, left)
	}
}

// TestACommandIsCarriedOutOnceWhateverRightWasMissing is fault 3 for commands: a customer to whom it
// happened and another have the same in the end.
func TestACommandIsCarriedOutOnceWhateverRightWasMissing(t *testing.T) {
	onBothLedgers(t, func(t *testing.T, f *fixture) {
		u := f.newUser()
		if u == nil {
			return
		}
		f.items = NewItems(teams)
		for _, right := range []string{"mget", "mset", "get", "hset", "hget", "hkeys", "hdel", "pexpire", "unlink"} {
			for _, kind := range slices.Sorted(maps.Keys(f.commandsOf(""))) {
				if kind == "customer.delete" { // see TestADeletionLeavesNothingWhateverRightWasMissing
					continue
				}
				harmed, other := fmt.Sprint(right, kind), fmt.Sprint("not", right, kind)
				f.newTeam(harmed)
				f.newTeam(other)
				call := f.commandsOf(harmed)[kind]
				u.allow("-" + right)
				missing := f.tries(u.store, call)
				u.allow("+" + right)
				replies := f.deliver(call, f.commandsOf(other)[kind])
				f.mustReplay(kind, []Call{call}, replies)
				if a, b := f.profileOf(harmed), f.profileOf(other); !reflect.DeepEqual(a, b) {
					t.Errorf("%s without %s (%v):\n%+v\nwant\n%+v", kind, right, missing, a, b)
				}
			}
		}
	})
}

// profileOf is everything that customer.get tells.
func (f *fixture) profileOf(customer string) *CommandOutcome {
	f.Helper()
	return f.command(f.store.CustomerGet(f.stepOf(customer), f.items))
}

// ownRedis is a Redis that a test may harm: a redis-server where there is one.
func ownRedis(t *testing.T) *redis.Client {
	t.Helper()
	server, err := embedded.StartRedis(t.Context(), "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(server.Close)
	client := redis.NewClient(&redis.Options{Addr: server.Addr, MaxRetries: -1})
	t.Cleanup(func() { _ = client.Close() })
	return client
}

// TestAFullMemoryCostsNobodyTwice is fault 3: Redis refuses what needs memory, and nothing else.
func TestAFullMemoryCostsNobodyTwice(t *testing.T) {
	client := ownRedis(t)
	for _, inCluster := range []bool{false, true} {
		f := newFixtureOn(t, client, inCluster)
		check := f.deduct(withKey(f.step(), "k"), "m", 2)
		if lacks(t, client.ConfigSet(t.Context(), "maxmemory", "1").Err()) {
			return
		}
		if err := f.tries(f.store, check); err == nil {
			t.Error("it was decided without memory")
		}
		if err := client.ConfigSet(t.Context(), "maxmemory", "0").Err(); err != nil {
			t.Fatal(err)
		}
		first := f.deliver(check)
		if first[0].Replayed || f.outcome(first[0]).Code != balance.Included {
			t.Errorf("got %+v", first[0])
		}
		f.mustReplay("redelivered", []Call{check}, first)
		if left := f.left(); left != 8 {
			t.Errorf("%d left, want 8", left)
		}
	}
}

// TestAKeyThatIsHarmedCostsNobodyTwice is fault 3: every kind of key, of another type or unreadable.
func TestAKeyThatIsHarmedCostsNobodyTwice(t *testing.T) {
	const id = "acme"
	for name, key := range map[string]func(f *fixture) string{
		"the customer":       func(f *fixture) string { return f.store.customerKey(id) },
		"an entity":          func(f *fixture) string { return entityKey(f.store.customerKey(id), "e1") },
		"an idempotency key": func(f *fixture) string { return idempotencyKey(f.store.customerKey(id), "k") },
		"the log":            func(f *fixture) string { return f.store.logKey(source) },
		"the profile":        func(f *fixture) string { return f.store.customerKey(id) + ":p" },
		"the directory":      func(f *fixture) string { return f.store.customerKey(id) + ":d:0" },
	} {
		for _, h := range []harm{otherType, unreadable} {
			t.Run(name+" "+h.name, func(t *testing.T) {
				onBothLedgers(t, func(t *testing.T, f *fixture) {
					f.newTeam(id)
					if key(f) == "" {
						return // a Cluster has no log
					}
					step := withKey(f.stepOf(id), "k")
					step.Entity = "e1"
					check := f.deduct(step, "m", 2)
					undo := h.to(f, key(f))
					_ = f.tries(f.store, check)
					undo()
					first := f.deliver(check)
					for range 3 {
						f.mustReplayOrFail(&check, first[0])
					}
					want := int64(30)
					if !f.failed(&check, first[0]) {
						want -= 2
					}
					plain := f.stepOf(id)
					plain.Entity, plain.Remember = "e1", false
					left := f.outcome(f.run(f.store.Check(&Check{Step: plain, FeatureID: "m", Needs: []Need{{FeatureID: "m"}}}, f.items))[0]).Pool.Remaining()
					if left != want {
						t.Errorf("%d left, want %d; answered %q, %v", left, want, first[0].outcome, first[0].Err)
					}
				})
			})
		}
	}
}

// mustReplayOrFail delivers a call that was answered, which gets that answer again, or fails again if
// it failed.
func (f *fixture) mustReplayOrFail(call *Call, first Reply) {
	f.Helper()
	if first.Err == nil {
		f.mustReplay("redelivered", []Call{*call}, []Reply{first})
	} else if reply := f.deliver(*call)[0]; !f.failed(call, reply) {
		f.Errorf("failed with %v, then %q", first.Err, reply.outcome)
	}
}

// TestWhatFailsLeavesNothingHalfDone is fault 15: a field that could not be read left a plan half attached.
func TestWhatFailsLeavesNothingHalfDone(t *testing.T) {
	const id = "acme"
	keys := map[string]func(f *fixture) string{
		"the customer":        func(f *fixture) string { return f.store.customerKey(id) },
		"an entity":           func(f *fixture) string { return entityKey(f.store.customerKey(id), "e1") },
		"the last entity":     func(f *fixture) string { return entityKey(f.store.customerKey(id), "e2") },
		"the entity to be":    func(f *fixture) string { return entityKey(f.store.customerKey(id), "e3") },
		"the directory":       func(f *fixture) string { return f.store.customerKey(id) + ":d:0" },
		"the profile":         func(f *fixture) string { return f.store.customerKey(id) + ":p" },
		"the idempotency key": func(f *fixture) string { return idempotencyKey(f.store.customerKey(id), "k") },
	}
	harms := []harm{otherType, unreadable, truncated, spoiledPools}
	f, failures := newFixture(t), 0
	f.newTeam(id)
	sound := f.dump(id)
	for name, key := range keys {
		for _, h := range harms {
			if h.name == spoiledPools.name && name != "the customer" && name != "an entity" || h.name == truncated.name && name != "an entity" {
				continue
			}
			t.Run(name+" "+h.name, func(t *testing.T) {
				f.restore(id, sound)
				for _, kind := range slices.Sorted(maps.Keys(f.commandsOf(id))) {
					call := f.commandsOf(id)[kind]
					h.do(f, key(f))
					harmed := f.state(id)
					reply := f.deliver(call)[0]
					if f.failed(&call, reply) {
						failures++
						f.sameState(kind, id, harmed)
					}
					f.mustReplayOrFail(&call, reply)
					f.restore(id, sound)
				}
				f.command(f.attach(id, "team2"))
			})
		}
	}
	const least = 50
	if failures < least {
		t.Errorf("only %d failed: the harm does not reach", failures)
	}
}

// TestACustomerThatFailsIsAloneInIt is fault 4: one failing customer had all that were in the same call
// answered with an error, some of them deducted.
func TestACustomerThatFailsIsAloneInIt(t *testing.T) {
	const customers, victim = 32, 17
	id := func(n int) string { return fmt.Sprint("customer-", n) }
	harms := []struct {
		name string
		harm harm
		key  func(customer, idempotencyKey string) string
	}{
		{"its key is of another type", otherType, func(customer, _ string) string { return customer }},
		{"its key is unreadable", unreadable, func(customer, _ string) string { return customer }},
		{"its key is truncated", truncated, func(customer, _ string) string { return customer }},
		{"its key is of another version", otherFormat, func(customer, _ string) string { return customer }},
		{"its entity's pools are unreadable", spoiledPools, func(customer, _ string) string { return entityKey(customer, "e") }},
		{"its idempotency key is of another type", otherType, idempotencyKey},
		{"its entity is of another type", otherType, func(customer, _ string) string { return entityKey(customer, "e") }},
		{"its entity is unreadable", unreadable, func(customer, _ string) string { return entityKey(customer, "e") }},
	}
	onBothLedgers(t, func(t *testing.T, f *fixture) {
		f.items = NewItems(teams)
		var made []Call
		for n := range customers {
			made = append(made, f.store.CustomerPut(f.stepOf(id(n)), f.items, "", "", ""), f.attach(id(n), "team"), f.newEntity(id(n), "e"))
		}
		f.run(made...)
		victims := int64(30)
		for i, c := range harms {
			var calls []Call
			for n := range customers {
				step := withKey(f.stepOf(id(n)), c.name)
				step.Entity = "e"
				calls = append(calls, f.deduct(step, "m", 2))
			}
			undo := c.harm.to(f, c.key(f.store.customerKey(id(victim)), c.name))
			first := f.deliver(calls...)
			for n, reply := range first {
				if failed := f.failed(&calls[n], reply); failed != (n == victim) {
					t.Errorf("%s, %s: failed %t, %q, %v", c.name, id(n), failed, reply.outcome, reply.Err)
				}
			}
			undo()
			for n, reply := range f.deliver(calls...) {
				if n == victim {
					if !f.failed(&calls[n], reply) {
						victims -= 2
					}
				} else if !reply.Replayed || string(reply.outcome) != string(first[n].outcome) {
					t.Errorf("%s, %s, redelivered: %q, %v", c.name, id(n), reply.outcome, reply.Err)
				}
			}
			for n := range customers {
				step := f.stepOf(id(n))
				step.Entity, step.Remember = "e", false
				left := f.outcome(f.run(f.store.Check(&Check{Step: step, FeatureID: "m", Needs: []Need{{FeatureID: "m"}}}, f.items))[0]).Pool.Remaining()
				want := 30 - 2*int64(i+1)
				if n == victim {
					want = victims
				}
				if left != want {
					t.Errorf("%s: %s has %d left, want %d", c.name, id(n), left, want)
				}
			}
		}
	})
}

// TestAFailureIsToldFromAStateOfRedisThatPasses is fault 4: texts as Redis 6.2, 7.0 and 7.2 have them, for
// a call as a whole and for one step of it. What passes is sent again until it has passed.
func TestAFailureIsToldFromAStateOfRedisThatPasses(t *testing.T) {
	const sha = "4f2c1a"
	// Redis 6.2 wraps what a script runs into, Redis 7 adds where.
	wrapped := func(text string) []string {
		return []string{
			"ERR Error running script (call to f_" + sha + "): @user_script:12: @user_script: 12: " + text,
			"@user_script: 12: " + text,
			text + " script: " + sha + ", on @user_script:12.",
			text,
		}
	}
	for _, text := range []string{
		"BUSY Redis is busy running a script. You can only call SCRIPT KILL or SHUTDOWN NOSAVE.",
		"-OOM command not allowed when used memory > 'maxmemory'.",
		"OOM command not allowed when used memory > 'maxmemory'.",
		"-READONLY You can't write against a read only replica.",
		"READONLY You can't write against a read only replica.",
		"-MISCONF Redis is configured to save RDB snapshots, but it is currently not able to persist on disk. Commands that may modify the data set are disabled",
		"MISCONF Errors writing to the AOF file: No space left on device",
		"-NOREPLICAS Not enough good replicas to write.",
		"NOREPLICAS Not enough good replicas to write.",
		"LOADING Redis is loading the dataset in memory",
		"MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.",
		"CLUSTERDOWN The cluster is down",
		"CLUSTERDOWN Hash slot not served",
		"TRYAGAIN Multiple keys request during rehashing of slot",
		"MOVED 3999 127.0.0.1:6381",
		"ASK 3999 127.0.0.1:6381",
		"CROSSSLOT Keys in request don't hash to the same slot",
		"NOAUTH Authentication required.",
		"NOPERM this user has no permissions to run the 'evalsha' command or its subcommand",
		"NOPERM User tollgate has no permissions to run the 'mset' command",
		"NOPERM ACL failure in script: User tollgate has no permissions to run the 'mset' command",
		"The user executing the script can't run this command or subcommand",
		"ERR The user executing the script can't run this command or subcommand",
		"The user executing the script can't access at least one of the keys mentioned in the command arguments",
		"Script killed by user with SCRIPT KILL...",
		"ERR Script killed by user with SCRIPT KILL...",
		"ERR Error running script (call to f_" + sha + "): @user_script:12: Script killed by user with SCRIPT KILL...",
		"Lua script attempted to access a non local key in a cluster node",
		"ERR Script attempted to access a non local key in a cluster node",
		"Unknown Redis command called from Lua script",
		"ERR Unknown Redis command called from script",
		"This Redis command is not allowed from scripts",
		"ERR This Redis command is not allowed from script",
		"UNKILLABLE Sorry the script already executed write commands against the dataset.",
		"not enough memory",
		"ERR user_script:12: not enough memory",
	} {
		for _, whole := range wrapped(text) {
			if isFailure(redisError(whole)) {
				t.Errorf("taken for a failure of the call: %s", whole)
			}
			call := Call{script: checkScript, step: Step{Remember: true}}
			var reply Reply
			if again, err := call.take([]any{[]any{whole}}, &reply); err == nil || again || reply.Err != nil {
				t.Errorf("taken for a failure of the step: %s", whole)
			}
		}
	}
	for _, text := range []string{
		"ERR Error running script (call to f_4f2c1a): @user_script:12: user_script:12: attempt to index a nil value",
		"ERR user_script:12: attempt to index local 'v' (a nil value) script: 4f2c1a, on @user_script:12.",
		"user_script:12: attempt to perform arithmetic on a nil value",
		"ERR user_script:1: bad argument #2 to 'unpack' (data string too short) script: 4f2c1a, on @user_script:1.",
		"ERR Error running script (call to f_4f2c1a): @user_script:9: @user_script: 9: -WRONGTYPE Operation against a key holding the wrong kind of value",
		"WRONGTYPE Operation against a key holding the wrong kind of value script: 4f2c1a, on @user_script:9.",
		"ERR user_script:12: Bad data format in input. script: 4f2c1a, on @user_script:12.",
		"ERR user_script:12: Missing bytes in input. script: 4f2c1a, on @user_script:12.",
	} {
		if !isFailure(redisError(text)) {
			t.Errorf("taken for what passes: %s", text)
		}
		call := Call{script: checkScript, step: Step{Remember: true}}
		var reply Reply
		if again, err := call.take([]any{[]any{text}}, &reply); err != nil || !again || call.refusal == "" {
			t.Errorf("not answered: %s: %v", text, err)
		}
		if again, err := call.take([]any{[]any{text}}, &reply); err != nil || again || reply.Err == nil {
			t.Errorf("not given up: %s: %v", text, err)
		}
	}
}

// TestAnErrorOfTheWholeCallIsAnsweredToNobody is fault 4: a script that was killed, or could not run, had
// all of its records answered with an error.
func TestAnErrorOfTheWholeCallIsAnsweredToNobody(t *testing.T) {
	for _, text := range []string{
		"BUSY Redis is busy running a script. You can only call SCRIPT KILL or SHUTDOWN NOSAVE.",
		"ERR Error running script (call to f_4f): @user_script:12: Script killed by user with SCRIPT KILL...",
		"ERR Script attempted to access a non local key in a cluster node script: 4f, on @user_script:3.",
	} {
		onBothLedgers(t, func(t *testing.T, f *fixture) {
			calls := f.work()
			client := redis.NewClient(&redis.Options{Addr: servertest.RedisAddr(t), MaxRetries: -1})
			t.Cleanup(func() { _ = client.Close() })
			client.AddHook(answerWith(redisError(text)))
			if err := f.tries(f.storeOn(client, f.store.prefix, f.store.cluster), calls...); err == nil {
				t.Errorf("answered: %s", text)
			}
			f.mustReplay(text, calls, f.deliver(calls...))
			if left := f.left(); left != leftOfWork {
				t.Errorf("%s: %d left, want %d", text, left, leftOfWork)
			}
		})
	}
}

// TestARedisThatForgetsScriptsAtOnceIsAnError is fault 16: the loop had no end, and no pause.
func TestARedisThatForgetsScriptsAtOnceIsAnError(t *testing.T) {
	f := newFixture(t)
	client := redis.NewClient(&redis.Options{Addr: servertest.RedisAddr(t), MaxRetries: -1})
	t.Cleanup(func() { _ = client.Close() })
	sent := 0
	client.AddHook(&hook{pipeline: func(commands []redis.Cmder, _ func() error) error {
		sent += len(commands)
		for _, command := range commands {
			command.SetErr(redisError("NOSCRIPT No matching script. Please use EVAL."))
		}
		return redisError("NOSCRIPT No matching script. Please use EVAL.")
	}})
	s := f.storeOn(client, f.store.prefix, false)
	if _, err := s.Run(t.Context(), f.now, f.work()); err == nil {
		t.Error("decided without a script")
	}
	if err := s.Forget(t.Context(), source, 1, []string{"c"}); err == nil {
		t.Error("forgotten without a script")
	}
	const most = 4 * (mostLoads + 1)
	if sent > most {
		t.Errorf("asked %d times, at most %d", sent, most)
	}
}

// TestARedeliveryReadsEachOutcomeOnce is fault 16: they were read once a record, and a hot customer's
// redelivery took the square of its records.
func TestARedeliveryReadsEachOutcomeOnce(t *testing.T) {
	const records = 4*checksAtOnce + 3
	f := newFixtureOn(t, ownRedis(t), false)
	var calls []Call
	for range records {
		calls = append(calls, f.check(0, true))
	}
	first := f.deliver(calls...)
	if lacks(t, f.client.ConfigResetStat(t.Context()).Err()) {
		return
	}
	f.mustReplay("redelivered", calls, first)
	stats := f.client.Info(t.Context(), "commandstats").Val()
	_, rest, _ := strings.Cut(stats, "cmdstat_hget:calls=")
	text, _, _ := strings.Cut(rest, ",")
	// A call reads the entries of calls that it has records in common with.
	if reads, err := strconv.Atoi(text); err != nil || reads > 2*(records+checksAtOnce-1)/checksAtOnce {
		t.Errorf("entries are read %s times (%v) for %d records", text, err, records)
	}
}
