package store

import (
	"flag"
	"fmt"
	"os"
	"testing"
	"time"

	"tollgate/internal/balance"
	"tollgate/internal/servertest"
)

// lockOf asks to hold units of m for an entity, "" for the customer, until a time, 0 for as long as may be.
func (f *fixture) lockOf(entity, id string, units, expiresMs int64) Call {
	step := f.step()
	step.Entity = entity
	return f.store.Check(&Check{Step: step, FeatureID: "m", Needs: []Need{{FeatureID: "m", Units: units}}, Deduct: true, Lock: &LockRequest{
		ID: id, ExpiresMs: expiresMs, OverageBehavior: "reject",
	}}, f.items)
}

// mustLock holds units, and fails the test if they are not held.
func (f *fixture) mustLock(entity, id string, units, expiresMs int64) *decided {
	f.Helper()
	got := f.outcome(f.run(f.lockOf(entity, id, units, expiresMs))[0])
	if got.LockExpiresMs == 0 {
		f.Fatalf("lock %q: %s, %v", id, got.Code, got.Error)
	}
	return got
}

func (f *fixture) carryOut(call Call) *CommandOutcome {
	f.Helper()
	reply := f.run(call)[0]
	if reply.Err != nil {
		f.Fatal(reply.Err)
	}
	outcome, err := ReadCommandOutcome(reply)
	if err != nil {
		f.Fatal(err)
	}
	return outcome
}

func (f *fixture) release(id string) *CommandOutcome {
	f.Helper()
	return f.carryOut(f.store.LockFinalize(f.step(), f.items, LockFinalize{ID: id, Action: "release", EventID: "x"}))
}

func (f *fixture) of(entity string) *balance.Pool {
	f.Helper()
	step := f.step()
	step.Remember, step.Entity = false, entity
	got := f.outcome(f.run(f.store.Check(&Check{Step: step, FeatureID: "m", Needs: []Need{{FeatureID: "m"}}}, f.items))[0])
	return &got.Pool
}

// An id comes again in the very step that finds its lock expired for more than 24 hours: the end that the forgotten lock's key
// is given is given to the new one.
func TestALockIDThatComesAgainAfterItIsForgotten(t *testing.T) {
	f := newFixture(t)
	f.mustLock("", "l", 3, f.now.Add(time.Hour).UnixMilli())
	f.now = f.now.Add(26 * time.Hour)
	f.mustLock("", "l", 4, 0)
	key := f.store.customerKey("c") + ":l:l"
	if ttl := f.client.PTTL(f.Context(), key).Val(); ttl != -1 {
		t.Errorf("the key of a lock that is held has an end: %v (-2: it is gone)", ttl)
	}
	if got := f.carryOut(f.store.LockGet(f.step(), f.items, "l")); got.Error != nil {
		t.Errorf("the lock is not found: %v; %+v", got.Error, f.of("").Sum())
	}
}

// More than 1,000 rollovers: the last of so many stands for the rest, and all of it goes back.
func TestALockOfVeryManyRolloversGoesBack(t *testing.T) {
	f := newFixture(t)
	plan := balance.Plan{ID: "p", Group: "base", Items: []balance.Item{{
		FeatureID: "m", Number: 1, Included: 1, Reset: balance.Reset{Interval: balance.Minute, Count: 1}, Rollover: &balance.Rollover{Max: 5000, ExpiryMonths: 3},
	}}}
	catalog := balance.NewCatalog("v", []balance.Feature{metered}, []balance.Plan{plan})
	f.items = NewItems(catalog)
	f.run(f.store.PlanAttach(f.step(), f.items, &catalog.Plans[0], nil, time.Time{}, 0))
	f.now = f.now.Add(1500 * time.Minute)
	before := f.of("").Sum()
	f.mustLock("", "l", 1400, 0)
	if held := f.of("").Sum().Held; held != 1400 {
		t.Errorf("%d are held", held)
	}
	f.carryOut(f.store.LockFinalize(f.step(), f.items, LockFinalize{ID: "l", Action: "release"}))
	if after := f.of("").Sum(); after.Held != 0 || after.Usage != before.Usage || after.Remaining != before.Remaining {
		t.Errorf("before %+v, after %+v", before, after)
	}
}

// A pool of more balances than are shown: the lines refer to the snapshot, and not to the pool.
func TestALockOfMoreBalancesThanAreShown(t *testing.T) {
	f := newFixture(t)
	var grants []Call
	for range 120 {
		grants = append(grants, f.grant(1))
	}
	f.run(grants...)
	got := f.outcome(f.run(f.lockOf("", "l", 115, 0))[0])
	if got.Error != nil {
		t.Fatalf("%v", got.Error)
	}
	f.release("l")
	if sum := f.of("").Sum(); sum.Remaining != 130 || sum.Held != 0 || sum.Usage != 0 {
		t.Errorf("released, and still %+v", sum)
	}
}

// A customer of many entities holds what they share.
func TestALockOfACrowdGoesBack(t *testing.T) {
	f, _ := newCrowd(t, 150)
	got := f.outcome(f.run(f.lockOf("", "l", 10+1234, 0))[0])
	if got.Error != nil {
		t.Fatalf("%v", got.Error)
	}
	if out := f.release("l"); out.Error != nil {
		t.Fatal(out.Error)
	}
	if sum := f.of("").Sum(); sum.Remaining != 1510 || sum.Held != 0 || sum.Usage != 0 {
		t.Errorf("released, and still %+v", sum)
	}
}

// A customer of many entities holds rollovers that they share.
func TestALockOfRolloversOfACrowd(t *testing.T) {
	plan := planOfSeats("team", 10)
	plan.Items[0].Rollover = &balance.Rollover{Max: 1000, ExpiryMonths: 3}
	f, _ := newCrowdOn(t, 150, plan)
	f.now = f.now.AddDate(0, 1, 1)
	before := f.of("").Sum()
	reply := f.run(f.lockOf("", "l", 5, 0))[0]
	if got := f.outcome(reply); got.Error != nil {
		t.Fatalf("%v", got.Error)
	}
	f.release("l")
	if sum := f.of("").Sum(); sum != before {
		t.Errorf("before %+v, released %+v", before, sum)
	}
}

// An entity, all of whose usage is held, is not in the queue of those that can be given back to; quickly it uses something.
func TestQuickUsageBesideALockIsGivenBack(t *testing.T) {
	f, _ := newCrowd(t, 150)
	f.mustLock("e149", "l", 5, 0)
	use := func(entity string, units int64) {
		step := f.step()
		step.Entity = entity
		f.outcome(f.run(f.store.Check(&Check{Step: step, FeatureID: "m", Needs: []Need{{FeatureID: "m", Units: units}}, Deduct: true}, f.items))[0])
	}
	use("e3", 2)
	f.outcome(f.run(f.check(-1, true))[0]) // a queue of those who have used something is made, e149 is passed
	use("e149", 3)
	f.outcome(f.run(f.check(-1, true))[0])
	before := f.of("").Sum()
	f.outcome(f.run(f.check(-3, true))[0])
	if after := f.of("").Sum(); before.Usage-before.Held != 3 || after.Usage != after.Held {
		t.Errorf("before %+v, 3 given back: %+v", before, after)
	}
}

// remaining is set where overage is held.
func TestRemainingIsSetWhereOverageIsHeld(t *testing.T) {
	f := newFixture(t)
	plan := balance.Plan{ID: "p", Group: "base", Items: []balance.Item{{
		FeatureID: "m", Number: 1, Included: 10, Price: &balance.ItemPrice{Method: balance.UsageBased, BillingUnits: 1, MaxPurchase: balance.Unbounded},
	}}}
	catalog := balance.NewCatalog("v", []balance.Feature{metered}, []balance.Plan{plan})
	f.items = NewItems(catalog)
	f.run(f.store.PlanAttach(f.step(), f.items, &catalog.Plans[0], nil, time.Time{}, 0))
	f.mustLock("", "l", 30, 0)
	out := f.carryOut(f.store.BalanceUpdate(f.step(), f.items, "m", "", FieldRemaining, 5))
	if got := f.left(); out.Error != nil || got != 5 {
		t.Errorf("%v: remaining was set to 5, and is %d", out.Error, got)
	}
}

// What was to be written of a lock that was settled in the same call is dropped with the customer: its key stays as it was.
func TestADeletedCustomerLeavesNoLock(t *testing.T) {
	f := newFixture(t)
	f.mustLock("", "l", 3, f.now.Add(time.Hour).UnixMilli())
	f.now = f.now.Add(2 * time.Hour)
	f.run(f.store.CustomerDelete(f.step(), f.items))
	if keys := f.client.Keys(f.Context(), f.store.customerKey("c")+":l*").Val(); len(keys) > 0 {
		t.Errorf("%v, %v", keys, f.client.PTTL(f.Context(), keys[0]).Val())
	}
}

func TestAThousandLocksAreListed(t *testing.T) {
	f := newFixture(t)
	f.run(f.grant(5000))
	var calls []Call
	for n := range 1000 {
		calls = append(calls, f.lockOf("", fmt.Sprint("lock-", n), 1, 0))
	}
	f.run(calls...)
	out := f.carryOut(f.store.CustomerGet(f.step(), f.items))
	if out.Error != nil || len(out.Profile.Locks) != 1000 {
		t.Errorf("%v", out.Error)
	}
	if got := f.outcome(f.run(f.lockOf("", "one more", 1, 0))[0]); got.Code != balance.TooManyLocks {
		t.Errorf("%s", got.Code)
	}
	f.now = f.now.Add(25 * time.Hour)
	if sum := f.of("").Sum(); sum.Held != 0 {
		t.Errorf("%+v", sum)
	}
}

// A lock of an entity whose key cannot be read makes every step of the customer fail.
func TestALockOfAnEntityThatCannotBeReadHarmsNobodyElse(t *testing.T) {
	f, _ := newCrowd(t, 3)
	f.mustLock("e1", "l", 5, f.now.Add(time.Hour).UnixMilli())
	key := entityKey(f.store.customerKey("c"), "e1")
	f.client.Del(f.Context(), key)
	f.client.LPush(f.Context(), key, "spoiled")
	f.now = f.now.Add(2 * time.Hour)
	step := f.step()
	step.Entity = "e2"
	reply := f.run(f.store.Check(&Check{Step: step, FeatureID: "m", Needs: []Need{{FeatureID: "m", Units: 1}}, Deduct: true}, f.items))[0]
	if got := f.outcome(reply); got.Error != nil {
		t.Errorf("a check of another entity: %v", got.Error)
	}
}

// What is taken lies behind the entities that are shown: the lines refer to the snapshot, and not to the view.
func TestALockOfACrowdBehindThoseThatAreShown(t *testing.T) {
	f, _ := newCrowd(t, 150)
	f.run(f.check(10+1234, true))
	got := f.outcome(f.run(f.lockOf("", "l", 7, 0))[0])
	if got.Error != nil {
		t.Fatalf("%v", got.Error)
	}
	f.release("l")
	if sum := f.of("").Sum(); sum.Remaining != 1510-1244 || sum.Held != 0 {
		t.Errorf("released, and still %+v", sum)
	}
}

// A lock expires while its customer is being removed: the entity that it goes back to is written again, and stays.
func TestADeletedCustomerLeavesNoEntity(t *testing.T) {
	f, _ := newCrowd(t, 700)
	f.mustLock("e1", "l", 5, f.now.Add(time.Hour).UnixMilli())
	remove := f.store.CustomerDelete(f.step(), f.items)
	if left := f.sendOnce(remove); len(left) != 1 {
		t.Fatal("it was removed at once")
	}
	f.now = f.now.Add(2 * time.Hour)
	f.run(again(remove))
	if keys := f.client.Keys(f.Context(), f.store.customerKey("c")+":*").Val(); len(keys) > 0 {
		t.Errorf("%v stay", keys)
	}
}

// A lock that is released before a reset rolls over, whenever anybody looks; what is left of it is held no longer.
func TestALockThatExpiresBeforeAResetRollsOver(t *testing.T) {
	f := newFixture(t)
	plan := balance.Plan{ID: "p", Group: "base", Items: []balance.Item{{
		FeatureID: "m", Number: 1, Included: 100, Reset: balance.Reset{Interval: balance.Hour, Count: 1}, Rollover: &balance.Rollover{Max: 5000, ExpiryMonths: 3},
	}}}
	catalog := balance.NewCatalog("v", []balance.Feature{metered}, []balance.Plan{plan})
	f.items = NewItems(catalog)
	f.run(f.store.PlanAttach(f.step(), f.items, &catalog.Plans[0], nil, time.Time{}, 0))
	f.mustLock("", "before", 30, f.now.Add(30*time.Minute).UnixMilli())
	f.mustLock("", "after", 20, f.now.Add(90*time.Minute).UnixMilli())
	f.now = f.now.Add(150 * time.Minute) // 2 resets
	if sum := f.of("").Sum(); sum.Remaining != 10+100+80+100 || sum.Held != 0 {
		t.Errorf("%+v", sum)
	}
}

// The same without an error: the line names a balance that nothing was taken from.
func TestALockNamesTheBalanceItWasTakenFrom(t *testing.T) {
	f, _ := newCrowd(t, 1)
	var grants []Call
	for n := range 110 {
		step := f.step()
		step.Entity = "e0"
		grants = append(grants, f.store.BalanceGrant(step, f.items, Grant{FeatureID: "m", BalanceID: fmt.Sprint("of-e0-", n), Units: 1}))
	}
	f.run(grants...)
	step := f.step()
	step.Entity = "e0"
	f.outcome(f.run(f.store.Check(&Check{Step: step, FeatureID: "m", Needs: []Need{{FeatureID: "m", Units: 10 + 104}}, Deduct: true}, f.items))[0])
	before := f.of("e0").Sum()
	f.mustLock("e0", "l", 1, 0)
	out := f.release("l")
	if after := f.of("e0").Sum(); after != before {
		t.Errorf("before %+v; released (forfeited: %+v) %+v", before, out.Lock.Forfeited, after)
	}
}

// A lock that asks for more than there is room for in its texts: what a confirm beyond it is refused leaves everything as it was.
func TestARefusedConfirmChangesNothing(t *testing.T) {
	f := newFixture(t)
	f.mustLock("", "l", 6, 0)
	over := balance.Decimal{Digits: "5", Exponent: 1}
	out := f.carryOut(f.store.LockFinalize(f.step(), f.items, LockFinalize{ID: "l", Action: "confirm", Override: &over, EventID: "x"}))
	if out.Error == nil || out.Error.Code != balance.InsufficientFunds {
		t.Errorf("%+v", out.Error)
	}
	if sum := f.of("").Sum(); sum.Held != 6 || sum.Remaining != 4 {
		t.Errorf("%+v", sum)
	}
	f.release("l")
	if sum := f.of("").Sum(); sum.Held != 0 || sum.Remaining != 10 {
		t.Errorf("%+v", sum)
	}
}

// fewStories bounds a property test on the embedded Redis, whose Lua takes some ten times as long, and under the race detector
// a hundred times.
func fewStories(t *testing.T) {
	checks := flag.Lookup("rapid.checks").Value
	usual := checks.String()
	if os.Getenv(servertest.EnvRedis) != "" || usual != flag.Lookup("rapid.checks").DefValue {
		return
	}
	_ = checks.Set("4")
	t.Cleanup(func() { _ = checks.Set(usual) })
}
