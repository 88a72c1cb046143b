package store

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"tollgate/internal/balance"
	"tollgate/internal/servertest"
)

func TestMain(m *testing.M) { os.Exit(servertest.Main(m)) }

const source = "source"

var metered = balance.Feature{ID: "m", Type: balance.Metered, Consumable: true}

// fixture is a store with a customer that has 10 of feature m.
type fixture struct {
	testing.TB
	client *redis.Client
	store  *Store
	items  *Items
	offset int64
	now    time.Time
}

func newFixture(t testing.TB) *fixture {
	t.Helper()
	return newFixtureOn(t, servertest.Redis(t), false)
}

// newFixtureOn is newFixture on a Redis; inCluster: outcomes are kept as in a Cluster, without a log.
func newFixtureOn(t testing.TB, client *redis.Client, inCluster bool) *fixture {
	t.Helper()
	f := &fixture{
		TB: t, client: client, items: NewItems(balance.NewCatalog("v", []balance.Feature{metered}, nil)),
		now: time.UnixMilli(1_000_000),
	}
	f.store = f.storeOn(client, servertest.Unique("store")+":", inCluster)
	f.run(f.store.CustomerPut(f.step(), f.items, "", "", ""), f.grant(10))
	return f
}

func (f *fixture) storeOn(client *redis.Client, prefix string, inCluster bool) *Store {
	f.Helper()
	s, err := New(client, Options{Prefix: prefix})
	if err != nil {
		f.Fatal(err)
	}
	s.cluster = inCluster
	return s
}

// step is that of the next record.
func (f *fixture) step() Step {
	f.offset++
	return Step{Customer: "c", Origin: Origin{Source: source, Offset: f.offset, TimestampMs: 5}, Remember: true}
}

func (f *fixture) grant(units int64) Call {
	step := f.step()
	return f.store.BalanceGrant(step, f.items, Grant{FeatureID: "m", BalanceID: fmt.Sprint("gift-", f.offset), Units: units})
}

func (f *fixture) check(units int64, deduct bool) Call {
	step := f.step()
	step.Remember = deduct
	return f.store.Check(&Check{Step: step, FeatureID: "m", Needs: []Need{{FeatureID: "m", Units: units}}, Deduct: deduct}, f.items)
}

func (f *fixture) run(calls ...Call) []Reply {
	f.Helper()
	replies, err := f.store.Run(f.Context(), f.now, calls)
	if err != nil {
		f.Fatal(err)
	}
	return replies
}

func (f *fixture) outcome(reply Reply) *decided {
	f.Helper()
	outcome, err := ReadCheckOutcome(reply)
	if err != nil || reply.Err != nil {
		f.Fatal(err, reply.Err)
	}
	d := &decided{CheckOutcome: outcome}
	if len(outcome.Draws) > 0 {
		d.Draw = outcome.Draws[0]
	}
	return d
}

// decided is a check, and what it drew from its first pool.
type decided struct {
	*CheckOutcome
	balance.Draw
}

// left is what the customer has left.
func (f *fixture) left() int64 {
	f.Helper()
	return f.outcome(f.run(f.check(0, false))[0]).Pool.Remaining()
}

// again is a call as it was before it was sent.
func again(call Call) Call {
	call.alone, call.failed, call.wantsRows, call.refusal = false, false, false, ""
	if call.step.Refusal != nil {
		call.refusal = call.step.Refusal.Error()
	}
	return call
}

// TestAScriptThatIsMissingDoesNotChangeTheOrder is a regression: the calls whose script Redis lacked were
// run again after those behind them.
func TestAScriptThatIsMissingDoesNotChangeTheOrder(t *testing.T) {
	f := newFixture(t)
	for _, present := range []*script{nil, checkScript, commandScript} {
		before := f.left()
		if err := f.client.ScriptFlush(t.Context()).Err(); err != nil {
			t.Fatal(err)
		}
		name := "none"
		if present != nil {
			name = present.name
			if err := present.Load(t.Context(), f.client).Err(); err != nil {
				t.Fatal(err)
			}
		}
		replies := f.run(
			f.check(0, false),
			f.grant(100),
			f.check(before+1, true),
			f.store.Track(f.step(), f.items, "cap", [][]Need{{{FeatureID: "m", Units: 1000}}}),
			f.check(1, true),
			f.grant(3),
			f.check(0, false),
		)
		for i, want := range map[int]string{0: fmt.Sprint("included ", before), 2: "included 99", 4: "insufficient_balance 0", 6: "included 3"} {
			outcome := f.outcome(replies[i])
			if got := fmt.Sprint(outcome.Code, " ", outcome.Pool.Remaining()); got != want {
				t.Errorf("with only %s present, call %d: got %s, want %s", name, i, got, want)
			}
		}
	}
}

func TestARecordProcessedAgainReturnsItsOutcome(t *testing.T) {
	f := newFixture(t)
	calls := []Call{f.check(4, true), f.check(7, true), f.check(6, true)}
	first := f.run(calls...)
	f.run(f.grant(50)) // what comes in between changes nothing
	for i, reply := range f.run(calls...) {
		if !reply.Replayed || string(reply.outcome) != string(first[i].outcome) {
			t.Errorf("call %d: replayed %t, %q then %q", i, reply.Replayed, first[i].outcome, reply.outcome)
		}
	}
	if left := f.outcome(f.run(f.check(0, false))[0]).Pool.Remaining(); left != 50 {
		t.Errorf("%d left, want 50", left)
	}
}

func TestCallsOfCustomersDoNotWaitForEachOther(t *testing.T) {
	f := newFixture(t)
	var calls []Call
	for i := range 50 {
		step := f.step()
		step.Customer = fmt.Sprint("customer-", i%7)
		calls = append(calls, f.store.CustomerPut(step, f.items, "", "", ""))
	}
	for i, reply := range f.run(calls...) {
		if outcome, err := ReadCommandOutcome(reply); err != nil || outcome.Error != nil {
			t.Errorf("call %d: %v, %v", i, outcome, err)
		}
	}
}

// hashTag is the part of a key that Redis Cluster finds the slot by.
func hashTag(key string) string {
	if i := strings.Index(key, "{"); i >= 0 {
		if j := strings.Index(key[i+1:], "}"); j > 0 {
			return key[i+1 : i+1+j]
		}
	}
	return key
}

func TestTheKeysOfACustomerShareASlotAndNoOthers(t *testing.T) {
	s, err := New(nil, Options{Prefix: "p:"})
	if err != nil {
		t.Fatal(err)
	}
	owners := map[string]string{} // by key
	for _, id := range []string{"c", "", "{}", "}", "{", "a}b", "{a}", "a{", "%7B", "%", "*", "?[x]", "a\nb", "a\x00b", "c}:e:x", "c}:p", "c}:l", "c}:l:x", "\xff", "c:e", " "} {
		customer := s.customerKey(id)
		keys := []string{customer, entityKey(customer, "e}{"), idempotencyKey(customer, "k{}"), customer + ":l", customer + ":l:l}{"}
		for _, key := range keys {
			if id != "" && hashTag(key) != hashTag(customer) { // ids are never empty
				t.Errorf("%q: the tag of %q is %q", id, key, hashTag(key))
			}
			if other, taken := owners[key]; taken {
				t.Errorf("%q has the key %q of %q", id, key, other)
			}
			owners[key] = id
		}
	}
}

func TestAPrefixWithABraceIsRefused(t *testing.T) {
	for _, prefix := range []string{"{", "a}b"} {
		if _, err := New(nil, Options{Prefix: prefix}); !errors.Is(err, ErrPrefix) {
			t.Errorf("%q: got %v", prefix, err)
		}
	}
}

func TestACatalogueThatChangesAMeaningIsRefused(t *testing.T) {
	f := newFixture(t)
	register := func(features ...balance.Feature) (*balance.Catalog, error) {
		return f.store.RegisterFeatures(t.Context(), balance.NewCatalog("v", features, nil))
	}
	if _, err := register(balance.Feature{ID: "a", Type: balance.Metered, Precision: 2}, balance.Feature{ID: "b", Type: balance.Boolean, Precision: 6}); err != nil {
		t.Fatal(err)
	}
	for _, feature := range []balance.Feature{
		{ID: "a", Type: balance.Metered, Precision: 3}, {ID: "a", Type: balance.CreditSystem, Precision: 2}, {ID: "b", Type: balance.Metered},
	} {
		var changed FeaturesChanged
		if _, err := register(feature); !errors.As(err, &changed) || len(changed) != 1 || changed[0].FeatureID != feature.ID {
			t.Errorf("%+v: got %v", feature, err)
		}
	}
	known, err := register(balance.Feature{ID: "c", Type: balance.Metered})
	if err != nil {
		t.Fatal(err)
	}
	if retired := known.Known("a"); retired.Precision != 2 || known.Feature("a") != nil {
		t.Errorf("got %+v", retired)
	}
}

func TestADeadlineEndsARun(t *testing.T) {
	f := newFixture(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := f.store.Run(ctx, f.now, []Call{f.check(1, true)}); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

// FuzzDecodeOutcome: what Redis holds was written by the scripts, and may be anything
// all the same.
func FuzzDecodeOutcome(f *testing.F) {
	f.Add([]byte("\x00\x08included\x00\x01\xa2\x12\xee\x3b\x5e\x00\x00\x00\x00\x00\x00\x00\x01\x00\x01m\x00\x00\x00\x00\x00\x00\x00\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"))
	f.Add([]byte{1, 0, 0, 0, 1, 'm', 0, 0, 0, 1, 0})
	for _, reply := range realOutcomes(f) {
		f.Add(reply.outcome)
	}
	f.Add([]byte{0x96, 0, 0xa0, 1, 0x90, 0x90, 0x90})
	f.Add([]byte{0xdd, 0xff, 0xff, 0xff, 0xff})
	f.Fuzz(func(t *testing.T, outcome []byte) {
		readsOrRefuses(t, outcome)
	})
}
