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

var metered = balance.Feature{ID: "m", Type: balance.Metered, Consumable: true}

// fixture is a store with a customer that has 10 of feature m.
type fixture struct {
	*testing.T
	client *redis.Client
	store  *Store
	items  *Items
	offset int64
}

func newFixture(t *testing.T) *fixture {
	t.Helper()
	client := servertest.Redis(t)
	s, err := New(client, Options{Prefix: servertest.Unique("store") + ":"})
	if err != nil {
		t.Fatal(err)
	}
	f := &fixture{T: t, client: client, store: s, items: NewItems(balance.NewCatalog("v", []balance.Feature{metered}, nil))}
	f.run(f.store.CustomerPut(f.step(), f.items, "", "", ""), f.grant(10))
	return f
}

// step is that of the next record.
func (f *fixture) step() Step {
	f.offset++
	return Step{Now: time.UnixMilli(1_000_000), Customer: "c", Origin: Origin{Source: "t/0", Offset: f.offset, Generation: 1}, Remember: true}
}

func (f *fixture) grant(units int64) Call {
	return f.store.BalanceGrant(f.step(), f.items, Grant{FeatureID: "m", BalanceID: fmt.Sprint("grant-", f.offset), Units: units})
}

func (f *fixture) check(units int64, deduct bool) Call {
	step := f.step()
	step.Remember = deduct
	return f.store.Check(&Check{Step: step, FeatureID: "m", Needs: []Need{{FeatureID: "m", Units: units}}, Deduct: deduct}, f.items)
}

func (f *fixture) run(calls ...Call) []Reply {
	f.Helper()
	replies, err := f.store.Run(f.Context(), calls)
	if err != nil {
		f.Fatal(err)
	}
	return replies
}

func (f *fixture) outcome(reply Reply) *CheckOutcome {
	f.Helper()
	outcome, err := DecodeCheck(reply)
	if err != nil || reply.Err != nil {
		f.Fatal(err, reply.Err)
	}
	return outcome
}

// TestAScriptThatIsMissingDoesNotChangeTheOrder is a regression: the calls whose script
// Redis lacked were run again after those behind them.
func TestAScriptThatIsMissingDoesNotChangeTheOrder(t *testing.T) {
	f := newFixture(t)
	for _, present := range []*script{trackScript, checkScript, balanceGrantScript} {
		if err := f.client.ScriptFlush(t.Context()).Err(); err != nil {
			t.Fatal(err)
		}
		if err := present.Load(t.Context(), f.client).Err(); err != nil {
			t.Fatal(err)
		}
		before := f.outcome(f.run(f.check(0, false))[0]).Pool.Remaining()
		if err := f.client.ScriptFlush(t.Context()).Err(); err != nil {
			t.Fatal(err)
		}
		if err := present.Load(t.Context(), f.client).Err(); err != nil {
			t.Fatal(err)
		}
		replies := f.run(
			f.check(0, false),
			f.grant(100),
			f.check(before+1, true),
			f.store.Track(f.step(), f.items, "", "cap", [][]Need{{{FeatureID: "m", Units: 1000}}}),
			f.check(1, true),
			f.grant(3),
			f.check(0, false),
		)
		for i, want := range map[int]string{0: fmt.Sprint("included ", before), 2: "included 99", 4: "insufficient_balance 0", 6: "included 3"} {
			outcome := f.outcome(replies[i])
			if got := fmt.Sprint(outcome.Code, " ", outcome.Pool.Remaining()); got != want {
				t.Errorf("with only %s present, call %d: got %s, want %s", present.name, i, got, want)
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

func TestTheLedgerForgetsWhatIsCommitted(t *testing.T) {
	f := newFixture(t)
	size := func() int64 {
		return f.client.StrLen(t.Context(), ledgerKey(f.store.customerKey("c"), "t/0")).Val()
	}
	one := int64(0)
	for range 100 {
		call := f.check(0, true)
		call.committed = f.offset // the record before is committed
		f.run(call)
		one = max(one, size())
	}
	if one == 0 || one > 400 {
		t.Errorf("of a customer who comes now and then %d bytes are kept", one)
	}
	// A customer who has always something under way: what is committed is cut off now and then.
	const underWay = 20
	var most int64
	for range 2000 {
		call := f.check(0, true)
		call.committed = f.offset - underWay
		f.run(call)
		most = max(most, size())
	}
	if most > 16384+one {
		t.Errorf("of a customer who comes all the time %d bytes are kept", most)
	}
	for back := int64(underWay) - 1; back >= 0; back-- {
		again := f.check(0, true)
		f.offset--
		again.offset = f.offset - back
		if reply := f.run(again)[0]; !reply.Replayed {
			t.Errorf("the record %d before the last is not remembered", back)
		}
	}
}

func TestAZombieLearnsThatItLostItsPartition(t *testing.T) {
	f := newFixture(t)
	old := f.check(1, true)
	late := f.check(1, true)
	f.run(old)
	next := f.check(1, true)
	next.generation, next.committed = 2, f.offset // the next generation, with all before committed
	f.run(next)
	reply := f.run(late)[0]
	if !reply.Stale {
		t.Errorf("got %+v", reply)
	}
	if left := f.outcome(f.run(f.check(0, false))[0]).Pool.Remaining(); left != 8 {
		t.Errorf("%d left, want 8", left)
	}
}

func TestAZombieLearnsSoAfterTheLedgerIsForgotten(t *testing.T) {
	f := newFixture(t)
	late := f.check(1, true)
	next := f.check(1, true)
	next.generation = 2 // the next generation
	f.run(next)
	f.forget(next, f.offset+1)
	if reply := f.run(late)[0]; !reply.Stale {
		t.Errorf("got %+v", reply)
	}
	if left := f.outcome(f.run(f.check(0, false))[0]).Pool.Remaining(); left != 9 {
		t.Errorf("%d left, want 9", left)
	}
	if reply := f.run(f.check(1, true))[0]; reply.Stale || reply.Replayed || f.outcome(reply).Pool.Remaining() != 8 {
		t.Errorf("a new record: %+v", reply)
	}
}

// forget forgets the ledger of a call, in which there must be an outcome, and says whether
// there is one still.
func (f *fixture) forget(call Call, committed int64) (kept bool) {
	f.Helper()
	ledger, ok := call.Ledger()
	hasEntries := func() bool { return f.client.Exists(f.Context(), ledger.entries).Val() == 1 }
	if !ok || !hasEntries() {
		f.Fatalf("no ledger %+v", ledger)
	}
	if err := f.store.Forget(f.Context(), []Ledger{ledger}, committed); err != nil {
		f.Fatal(err)
	}
	return hasEntries()
}

func TestOnlyWhatIsCommittedIsForgotten(t *testing.T) {
	f := newFixture(t)
	first, second := f.check(1, true), f.check(1, true)
	f.run(first, second)
	if !f.forget(first, f.offset) {
		t.Error("an outcome was forgotten that is not committed")
	}
	if reply := f.run(second)[0]; !reply.Replayed {
		t.Errorf("got %+v", reply)
	}
	if err := f.client.ScriptFlush(t.Context()).Err(); err != nil {
		t.Fatal(err)
	}
	if f.forget(first, f.offset+1) {
		t.Error("the outcomes are still there")
	}
}

// TestAStrangerIsForgottenForGood: customers that do not exist must not fill Redis.
func TestAStrangerIsForgottenForGood(t *testing.T) {
	f := newFixture(t)
	step := f.step()
	step.Customer = "stranger"
	call := f.store.Check(&Check{Step: step, FeatureID: "m", Needs: []Need{{FeatureID: "m", Units: 1}}, Deduct: true}, f.items)
	f.run(call)
	f.forget(call, f.offset+1)
	if ttl := f.client.PTTL(t.Context(), f.store.customerKey("stranger")).Val(); ttl <= 0 || ttl > strangerMark {
		t.Errorf("its mark stays for %v", ttl)
	}
	step = f.step()
	step.Customer = "stranger"
	f.run(f.store.CustomerPut(step, f.items, "", "", ""))
	if ttl := f.client.PTTL(t.Context(), f.store.customerKey("stranger")).Val(); ttl != -1 {
		t.Errorf("a customer expires in %v", ttl)
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
		if outcome, err := DecodeCommand(reply); err != nil || outcome.Error != nil {
			t.Errorf("call %d: %v, %v", i, outcome, err)
		}
	}
}

// TestACustomerInABadStateDoesNotStopOthers: their checks share a call of the script.
func TestACustomerInABadStateDoesNotStopOthers(t *testing.T) {
	f := newFixture(t)
	if err := f.client.HSet(t.Context(), f.store.customerKey("bad"), "bm", "\x93not balances").Err(); err != nil {
		t.Fatal(err)
	}
	bad := f.step()
	bad.Customer = "bad"
	replies := f.run(
		f.check(4, true),
		f.store.Check(&Check{Step: bad, FeatureID: "m", Needs: []Need{{FeatureID: "m", Units: 1}}, Deduct: true}, f.items),
		f.check(4, true),
	)
	if replies[1].Err == nil {
		t.Errorf("got %+v", replies[1])
	}
	for i, want := range map[int]int64{0: 6, 2: 2} {
		if left := f.outcome(replies[i]).Pool.Remaining(); left != want {
			t.Errorf("call %d: %d left, want %d", i, left, want)
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
	for _, id := range []string{"c", "", "{}", "}", "{", "a}b", "{a}", "a{", "%7B", "%", "*", "?[x]", "a\nb", "a\x00b", "c}:l:t/0", "c}:e", "\xff", "c:e", " "} {
		customer := s.customerKey(id)
		keys := []string{customer, entitiesKey(customer), ledgerKey(customer, "t}/{0"), idempotencyKey(customer, CheckKind, "k{}"), idempotencyKey(customer, CommandKind, "k{}")}
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

func TestAFailureOfRedisIsNotOneOfTheScript(t *testing.T) {
	for text, failure := range map[string]bool{
		"ERR user_script:12: attempt to index a nil value script: 4f, on @user_script:12.":                      true,
		"ERR Error running script (call to f_4f): @user_script:12: user_script:12: bad data":                    true,
		"ERR Error running script (call to f_4f): @user_script:26: -MISCONF Redis is configured to save RDB":    false,
		"ERR Error running script (call to f_4f): @user_script:26: -OOM command not allowed when used memory":   false,
		"MISCONF Errors writing to the AOF file: No space left on device":                                       false,
		"READONLY You can't write against a read only replica. script: 4f, on @user_script:3.":                  false,
		"ERR Error running script (call to f_4f): @user_script:3: @user_script: 3: -READONLY You can't write":   false,
		"NOSCRIPT No matching script. Please use EVAL.":                                                         false,
		"ERR The user executing the script can't run this command or subcommand script: 4f, on @user_script:1.": false,
		"TRYAGAIN Multiple keys request during rehashing of slot":                                               false,
		"ERR max number of clients reached":                                                                     false,
	} {
		if got := isScriptFailure(errors.New(text)); got != failure {
			t.Errorf("%s: got %t", text, got)
		}
	}
	if isScriptFailure(nil) {
		t.Error("nil is no failure")
	}
}

func TestADeadlineEndsARun(t *testing.T) {
	f := newFixture(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := f.store.Run(ctx, []Call{f.check(1, true)}); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

// FuzzDecodeOutcome: what Redis holds was written by the scripts, and may be anything
// all the same.
func FuzzDecodeOutcome(f *testing.F) {
	f.Add([]byte{0, 0xa8, 'i', 'n', 'c', 'l', 'u', 'd', 'e', 'd', 1, 1, 0x91, 0xa1, 'm', 0x90, 0, 0x90, 0x90})
	f.Add([]byte{1, 0xa0, 0xa0})
	f.Add([]byte{0xdd, 0xff, 0xff, 0xff, 0xff})
	f.Fuzz(func(t *testing.T, outcome []byte) {
		if check, err := DecodeCheck(Reply{outcome: outcome}); err == nil && check == nil {
			t.Fatal("neither an outcome nor an error")
		}
		if command, err := DecodeCommand(Reply{outcome: outcome}); err == nil && command == nil {
			t.Fatal("neither an outcome nor an error")
		}
	})
}
