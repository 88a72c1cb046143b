package engine_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/segmentio/kafka-go"
	"pgregory.net/rapid"

	"tollgate/internal/catalog"
	"tollgate/internal/engine"
	"tollgate/internal/ops"
	"tollgate/internal/realtest"
	"tollgate/internal/servertest"
	"tollgate/internal/store"
	"tollgate/internal/stream"
	"tollgate/internal/wire"
)

// health is how a shard answers.
type health int

const (
	well        health = iota
	away               // no connection
	mute               // it does what it is told, and its answers are lost
	refuses            // it answers with an error that passes
	refusesOnce        // and is well again
	healths
)

// shards are a Redis Cluster of three, to its clients: each a connection to the same Redis, and as well as a test says.
type shards struct {
	client *redis.ClusterClient
	mutex  sync.Mutex
	health [3]health
}

func newShards(t *testing.T) *shards {
	t.Helper()
	s := &shards{}
	addr := servertest.RedisAddr(t)
	var dialer net.Dialer
	s.client = redis.NewClusterClient(&redis.ClusterOptions{
		MaxRetries: -1, ContextTimeoutEnabled: true,
		Dialer: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return dialer.DialContext(ctx, network, addr)
		},
		ClusterSlots: func(context.Context) ([]redis.ClusterSlot, error) {
			const slots = 16384
			var all []redis.ClusterSlot
			for i := range s.health {
				all = append(all, redis.ClusterSlot{
					Start: i * slots / 3, End: (i+1)*slots/3 - 1, Nodes: []redis.ClusterNode{{Addr: shardAddr(i)}},
				})
			}
			return all, nil
		},
		NewClient: func(options *redis.Options) *redis.Client {
			client := redis.NewClient(options)
			for i := range s.health {
				if options.Addr == shardAddr(i) {
					client.AddHook(&shardHook{shards: s, n: i})
				}
			}
			return client
		},
	})
	t.Cleanup(func() { _ = s.client.Close() })
	return s
}

func shardAddr(n int) string { return fmt.Sprintf("shard-%d:6379", n) }

func (s *shards) set(n int, h health) {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	s.health[n] = h
}

func (s *shards) get(n int) health {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	h := s.health[n]
	if h == refusesOnce {
		s.health[n] = well
	}
	return h
}

// of is the shard that has a customer of a store with a prefix.
func (s *shards) of(t testing.TB, prefix, customer string) int {
	t.Helper()
	client, err := s.client.MasterForKey(t.Context(), prefix+"{"+customer+"}")
	if err != nil {
		t.Fatal(err)
	}
	for i := range s.health {
		if client.Options().Addr == shardAddr(i) {
			return i
		}
	}
	t.Fatal(client.Options().Addr)
	return 0
}

// customers finds some for each shard.
func (s *shards) customers(t testing.TB, prefix string, each int) (all [3][]string) {
	t.Helper()
	for n := 0; ; n++ {
		customer := fmt.Sprint("c", n)
		if of := s.of(t, prefix, customer); len(all[of]) < each {
			all[of] = append(all[of], customer)
		}
		if len(all[0]) == each && len(all[1]) == each && len(all[2]) == each {
			return all
		}
	}
}

type shardHook struct {
	shards *shards
	n      int
}

// refusal is an error that Redis answered.
type refusal string

func (r refusal) Error() string { return string(r) }
func (r refusal) RedisError()   {}

const errFull = refusal("OOM command not allowed when used memory > 'maxmemory'.")

func (h *shardHook) DialHook(next redis.DialHook) redis.DialHook { return next }

func (h *shardHook) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, command redis.Cmder) error {
		if at := h.shards.get(h.n); at == away || at == mute {
			command.SetErr(errAway)
			return errAway
		}
		return next(ctx, command)
	}
}

func (h *shardHook) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, commands []redis.Cmder) error {
		var err error
		switch h.shards.get(h.n) {
		case well:
			return next(ctx, commands)
		case away:
			err = errAway
		case refuses, refusesOnce:
			err = errFull
		case mute:
			err = errAway
			_ = next(ctx, commands)
		}
		for _, command := range commands {
			command.SetErr(err)
		}
		return nil // the commands have their errors; of another the client of the Cluster would try again
	}
}

const sharded = `
features:
  - {id: m, type: metered, precision: 0}
plans: [{id: free, default: true, items: [{feature_id: m, included: 40}]}]
`

// shardedRig is an engine on shards, with a log of one partition and what the results must be.
type shardedRig struct {
	testing.TB
	shards    *shards
	prefix    string
	engine    *engine.Engine
	metrics   *ops.Metrics
	customers [3][]string
	log       []kafka.Message
	of        []string       // customer of each record, "" for none
	want      []string       // what is left after each
	left      map[string]int // by the model
}

func newShardedRig(t *testing.T, bounds engine.HoldBack) *shardedRig {
	t.Helper()
	r := &shardedRig{TB: t, shards: newShards(t), prefix: servertest.Unique("shards") + ":", metrics: ops.NewMetrics(), left: map[string]int{}}
	rules, err := catalog.Parse([]byte(sharded))
	if err != nil {
		t.Fatal(err)
	}
	st, err := store.New(r.shards.client, store.Options{Prefix: r.prefix})
	if err != nil {
		t.Fatal(err)
	}
	r.engine = engine.New(st, rules, engine.Options{
		Topics: topics, IdempotencyWindow: time.Hour, Clock: time.Now, HoldBack: bounds,
	}, servertest.Silent(), r.metrics)
	r.customers = r.shards.customers(t, r.prefix, 2)
	commands := r.engine.Partition(topics.Commands, 0)
	offset := int64(0)
	for _, some := range r.customers {
		for _, customer := range some {
			r.left[customer] = 40
			value := fmt.Sprintf(`{"type":"customer.put","customer_id":%q}`, customer)
			decision, err := commands.Decide(t.Context(), stream.Batch{Topic: topics.Commands, Records: []kafka.Message{{Topic: topics.Commands, Offset: offset, Value: []byte(value)}}})
			if err != nil || len(decision.Records) != 1 {
				t.Fatal(err, decision)
			}
			offset++
		}
	}
	return r
}

// refused is the need of a check that the store is not asked about.
const refused = -1

// append adds a check to the log; "" is a customer that cannot be read.
func (r *shardedRig) append(customer string, need int) {
	value := fmt.Sprintf(`{"customer_id":%q,"feature_id":"m","required_balance":%d,"send_event":true}`, customer, need)
	want := ""
	switch {
	case customer == "":
		value = "{"
	case need == refused:
		value = fmt.Sprintf(`{"customer_id":%q,"feature_id":"unknown"}`, customer)
	default:
		if need <= r.left[customer] {
			r.left[customer] -= need
		}
		want = strconv.Itoa(r.left[customer])
	}
	offset := int64(len(r.log))
	r.log = append(r.log, kafka.Message{
		Topic: topics.Checks, Offset: offset, Time: time.UnixMilli(offset), Key: []byte(customer), Value: []byte(value),
		Headers: []kafka.Header{{Key: wire.HeaderRequestID, Value: []byte(strconv.FormatInt(offset, 10))}},
	})
	r.of, r.want = append(r.of, customer), append(r.want, want)
}

func (r *shardedRig) batch(from, to, committed int) stream.Batch {
	return stream.Batch{Topic: topics.Checks, Committed: int64(committed), Records: slices.Clone(r.log[from:to])}
}

// offsets are the records that results answer, each of which must be as the model has it.
func (r *shardedRig) offsets(fail func(string, ...any), decision stream.Decision) (all []int) {
	for i := range decision.Records {
		record := &decision.Records[i]
		if record.Topic != topics.CheckResults {
			continue
		}
		result := read[wire.ResultRecord](r.TB, *record)
		offset, err := strconv.Atoi(result.RequestID)
		if err != nil {
			fail("%v: %s", err, record.Value)
		}
		if r.want[offset] != "" && (result.Balance == nil || result.Balance.Remaining.String() != r.want[offset]) {
			fail("offset %d: want %s left, got %s", offset, r.want[offset], record.Value)
		}
		all = append(all, offset)
	}
	return all
}

// TestOrderHoldsWhateverShardFails: shards fail and come back, and workers crash, at any time; each customer's results are
// those that it would have without, in their order.
func TestOrderHoldsWhateverShardFails(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		r := newShardedRig(t, engine.HoldBack{Ahead: 40, AheadOfCustomer: 8})
		run := &shardedRun{shardedRig: r, rt: rt, answered: map[int]bool{}}
		run.start()
		rt.Repeat(map[string]func(*rapid.T){
			"records": func(rt *rapid.T) {
				for range rapid.IntRange(1, 12).Draw(rt, "records") {
					switch customer := rapid.IntRange(0, 6).Draw(rt, "customer"); customer {
					case 6:
						r.append("", 0)
					default:
						r.append(r.customers[customer%3][customer/3], rapid.IntRange(refused, 9).Draw(rt, "need"))
					}
				}
				run.decide(r.batch(run.next, len(r.log), run.committed))
			},
			"more": func(*rapid.T) { run.decide(r.batch(0, 0, run.committed)) },
			"health": func(rt *rapid.T) {
				r.shards.set(rapid.IntRange(0, 2).Draw(rt, "shard"), health(rapid.IntRange(0, int(healths)-1).Draw(rt, "health")))
			},
			"commit": func(rt *rapid.T) {
				run.committed = rapid.IntRange(run.committed, run.below).Draw(rt, "committed")
			},
			"crash": func(*rapid.T) { run.start() },
		})
		run.finish()
	})
}

// shardedRun is what a worker makes of the log.
type shardedRun struct {
	*shardedRig
	rt        *rapid.T
	decider   stream.PartitionDecider
	next      int // of the log
	committed int
	below     int            // what may be committed
	begun     int            // what was committed when the worker started
	last      map[string]int // offset answered last, by customer, in this worker's life
	answered  map[int]bool   // by any worker
}

// start starts a worker, the one before having crashed.
func (s *shardedRun) start() {
	s.decider = s.engine.Partition(topics.Checks, 0)
	s.next, s.below, s.begun, s.last = s.committed, s.committed, s.committed, map[string]int{}
	if s.next < len(s.log) {
		s.decide(s.batch(s.next, len(s.log), s.committed))
	}
}

func (s *shardedRun) decide(batch stream.Batch) {
	decision, err := s.decider.Decide(s.Context(), batch)
	if err != nil {
		s.rt.Fatal(err)
	}
	if n := len(batch.Records); n > 0 {
		s.next = int(batch.Records[n-1].Offset) + 1
	}
	for _, offset := range s.offsets(s.rt.Fatalf, decision) {
		s.answered[offset] = true
		customer := s.of[offset]
		if customer == "" {
			continue
		}
		before, met := s.last[customer]
		if !met {
			before = s.begun - 1
		}
		if want := before + 1 + slices.Index(s.of[before+1:], customer); offset != want {
			s.rt.Fatalf("%s: offset %d is answered, want %d", customer, offset, want)
		}
		s.last[customer] = offset
	}
	if next := int(decision.Next); next < s.below || next > s.next {
		s.rt.Fatalf("next is %d, was %d of %d", next, s.below, s.next)
	} else {
		s.below = next
	}
	for offset := range s.below {
		if !s.answered[offset] {
			s.rt.Fatalf("%d may be committed, but %d is not answered", s.below, offset)
		}
	}
}

// finish has all shards come back, and everything answered.
func (s *shardedRun) finish() {
	for i := range s.shards.health {
		s.shards.set(i, well)
	}
	for deadline := time.Now().Add(time.Minute); s.below < len(s.log); {
		s.decide(s.batch(0, 0, s.committed))
		if time.Now().After(deadline) {
			s.rt.Fatalf("%d of %d are decided", s.below, len(s.log))
		}
	}
	for customer, left := range s.left {
		s.append(customer, 0)
		s.left[customer] = left
	}
	s.decide(s.batch(s.next, len(s.log), s.committed)) // each must have what the model has
	if s.below != len(s.log) {
		s.rt.Fatal("not all is decided")
	}
}

// TestOneShardAwayStopsOnlyItsCustomers is issue 13, fault 12: every batch waited for the shard.
func TestOneShardAwayStopsOnlyItsCustomers(t *testing.T) {
	r := newShardedRig(t, engine.HoldBack{})
	decider := r.engine.Partition(topics.Checks, 3)
	r.shards.set(1, away)
	for range 4 {
		for shard := range 3 {
			r.append(r.customers[shard][0], 1)
		}
	}
	decision, err := decider.Decide(t.Context(), r.batch(0, 12, 0))
	if err != nil {
		t.Fatal(err)
	}
	if got, want := r.offsets(t.Fatalf, decision), []int{0, 2, 3, 5, 6, 8, 9, 11}; !slices.Equal(got, want) || decision.Next != 1 {
		t.Errorf("answered %v, next %d; want %v, next 1", got, decision.Next, want)
	}
	if err := r.metrics.Waiting(t.Context()); err == nil || err.Error() != "checks 3: 4 records wait: the redis shard shard-1:6379 does not answer: "+errAway.Error() {
		t.Errorf("told: %v", err)
	}
	r.shards.set(1, well)
	var late []int
	realtest.Until(t, "the rest", func() bool {
		if decision, err = decider.Decide(t.Context(), r.batch(0, 0, 1)); err != nil {
			t.Fatal(err)
		}
		late = append(late, r.offsets(t.Fatalf, decision)...)
		return decision.Next == 12
	})
	if want := []int{1, 4, 7, 10}; !slices.Equal(late, want) {
		t.Errorf("then answered %v, want %v", late, want)
	}
	if err := r.metrics.Waiting(t.Context()); err != nil {
		t.Errorf("told: %v", err)
	}
}

// TestAShardThatRefusesOnceIsNotOvertaken: a customer's calls are sent in several rounds; none of them goes on behind one that
// was refused.
func TestAShardThatRefusesOnceIsNotOvertaken(t *testing.T) {
	const records = 150 // more than one call of a script takes
	r := newShardedRig(t, engine.HoldBack{})
	decider := r.engine.Partition(topics.Checks, 0)
	for n := range records {
		r.append(r.customers[n%2][0], n%2)
	}
	r.shards.set(1, refusesOnce)
	var got [2][]int
	for batch := r.batch(0, records, 0); ; batch = r.batch(0, 0, 0) {
		decision, err := decider.Decide(t.Context(), batch)
		if err != nil {
			t.Fatal(err)
		}
		for _, offset := range r.offsets(t.Errorf, decision) {
			got[offset%2] = append(got[offset%2], offset)
		}
		if decision.Next == records {
			break
		}
	}
	for i := range got {
		if len(got[i]) != records/2 || !slices.IsSorted(got[i]) {
			t.Errorf("answered %v", got[i])
		}
	}
}

// TestWhatIsHeldBackIsBounded: at the bound the partition waits for the shard.
func TestWhatIsHeldBackIsBounded(t *testing.T) {
	r := newShardedRig(t, engine.HoldBack{Records: 5})
	decider := r.engine.Partition(topics.Checks, 0)
	r.shards.set(1, away)
	for range 6 {
		r.append(r.customers[1][0], 1)
	}
	r.append(r.customers[2][0], 1)
	decision, err := decider.Decide(t.Context(), r.batch(0, 6, 0))
	if err != nil || decision.Next != 0 {
		t.Fatal(err, decision.Next)
	}
	const patience = 300 * time.Millisecond
	waiting, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if decision, err := decider.Decide(waiting, r.batch(6, 7, 0)); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("%v: a batch was taken, next %d", err, decision.Next)
	}
	time.AfterFunc(patience, func() { r.shards.set(1, well) })
	if decision, err = decider.Decide(t.Context(), r.batch(6, 7, 0)); err != nil || decision.Next != 7 {
		t.Fatal(err, decision.Next)
	}
	if got, want := r.offsets(t.Fatalf, decision), []int{0, 1, 2, 3, 4, 5, 6}; !slices.Equal(got, want) {
		t.Errorf("answered %v, want %v", got, want)
	}
}

// TestOthersRunAheadSoFarOnly: what is decided behind the first that waits comes again after a crash.
func TestOthersRunAheadSoFarOnly(t *testing.T) {
	for name, c := range map[string]struct {
		bounds engine.HoldBack
		want   []int
	}{
		"in offsets":     {engine.HoldBack{Ahead: 6}, []int{1, 2, 3, 4, 5}},
		"of a customer":  {engine.HoldBack{AheadOfCustomer: 2}, []int{1, 2, 3, 4}},
		"bounds of both": {engine.HoldBack{Ahead: 4, AheadOfCustomer: 3}, []int{1, 2, 3}},
	} {
		t.Run(name, func(t *testing.T) {
			r := newShardedRig(t, c.bounds)
			decider := r.engine.Partition(topics.Checks, 0)
			r.shards.set(0, away)
			r.append(r.customers[0][0], 1)
			for range 4 {
				r.append(r.customers[1][0], 1)
				r.append(r.customers[2][0], 1)
			}
			var got []int
			for i := range r.log {
				decision, err := decider.Decide(t.Context(), r.batch(i, i+1, 0))
				if err != nil || decision.Next != 0 {
					t.Fatal(err, decision.Next)
				}
				got = append(got, r.offsets(t.Fatalf, decision)...)
			}
			if !slices.Equal(got, c.want) {
				t.Errorf("answered %v, want %v", got, c.want)
			}
			r.shards.set(0, well)
			realtest.Until(t, "the rest", func() bool {
				decision, err := decider.Decide(t.Context(), r.batch(0, 0, 0))
				if err != nil {
					t.Fatal(err)
				}
				got = append(got, r.offsets(t.Fatalf, decision)...)
				return decision.Next == int64(len(r.log))
			})
			if slices.Sort(got); !slices.Equal(got, []int{0, 1, 2, 3, 4, 5, 6, 7, 8}) {
				t.Errorf("answered %v", got)
			}
		})
	}
}

// TestNothingThatWaitsIsPassedOver: what waits is found in another order than that of the offsets.
func TestNothingThatWaitsIsPassedOver(t *testing.T) {
	r := newShardedRig(t, engine.HoldBack{Ahead: 2})
	decider := r.engine.Partition(topics.Checks, 0)
	for _, shard := range []int{0, 1, 0} {
		r.shards.set(shard, away)
		r.append(r.customers[shard][0], 1)
	}
	for _, batch := range []stream.Batch{r.batch(0, 1, 0), r.batch(1, 3, 0)} {
		if decision, err := decider.Decide(t.Context(), batch); err != nil || decision.Next != 0 {
			t.Fatal(err, decision.Next)
		}
	}
	r.shards.set(0, well)
	realtest.Until(t, "the first record", func() bool {
		decision, err := decider.Decide(t.Context(), r.batch(0, 0, 0))
		if err != nil || decision.Next > 1 {
			t.Fatal(err, decision.Next)
		}
		return decision.Next == 1
	})
}

// TestAWholeBatchWaits: what is published and what is committed in a transaction are the same records.
func TestAWholeBatchWaits(t *testing.T) {
	r := newShardedRig(t, engine.HoldBack{})
	decider := r.engine.Partition(topics.Checks, 0)
	r.shards.set(1, away)
	for shard := range 3 {
		r.append(r.customers[shard][0], 1)
	}
	batch := r.batch(0, 3, 0)
	batch.Whole = true
	waiting, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if _, err := decider.Decide(waiting, batch); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("%v: it was decided", err)
	}
	r.shards.set(1, well)
	decision, err := decider.Decide(t.Context(), batch)
	if got := r.offsets(t.Fatalf, decision); err != nil || decision.Next != 3 || !slices.Equal(got, []int{0, 1, 2}) {
		t.Errorf("%v: answered %v, next %d", err, got, decision.Next)
	}
}
