package store

import (
	"fmt"
	"testing"
	"time"

	"github.com/tinylib/msgp/msgp"

	"tollgate/internal/balance"
)

// TestTheThousandAndFirstBalanceIsRefused is fault 7: there was no bound, and each cost every check.
func TestTheThousandAndFirstBalanceIsRefused(t *testing.T) {
	const id = "acme"
	most := int(number("LIMIT", "balances"))
	if most != 1000 {
		t.Fatalf("the bound is %d", most)
	}
	f := newFixture(t)
	f.items = NewItems(balance.NewCatalog("v", []balance.Feature{metered, ofX, ofSeats}, []balance.Plan{
		{ID: "one", Group: "a", Items: []balance.Item{monthly("m", 1), monthly("x", 5)}},
		{ID: "seats", Group: "b", Items: []balance.Item{{FeatureID: "seats", Number: 1, Included: 3}}},
		{ID: "pack", Group: "c", AddOn: true, Items: []balance.Item{monthly("m", 1)}},
	}))
	f.command(f.store.CustomerPut(f.stepOf(id), f.items, "", "", ""))
	f.command(f.attach(id, "seats"))
	f.command(f.newEntity(id, "e"))
	grantTo := func(entity string) Call {
		step := f.stepOf(id)
		step.Entity = entity
		return f.store.BalanceGrant(step, f.items, Grant{FeatureID: "m", Units: 3})
	}
	for entity, key := range map[string]string{"": f.store.customerKey(id), "e": entityKey(f.store.customerKey(id), "e")} {
		f.command(grantTo(entity))
		f.multiply(key, "m", most-1)
		f.command(grantTo(entity))
		before := f.state(id)
		for range 2 {
			call := grantTo(entity)
			if code := f.codeOf(&call, f.deliver(call)[0]); code != balance.TooManyBalances {
				t.Errorf("entity %q: %q", entity, code)
			}
		}
		attach := f.attach(id, "one")
		attach.step.Entity = entity
		step := attach.step
		attach = f.store.PlanAttach(step, f.items, f.items.catalog.Plan("one"), nil, f.now, 0)
		if code := f.codeOf(&attach, f.deliver(attach)[0]); code != balance.TooManyBalances {
			t.Errorf("plan.attach, entity %q: %q", entity, code)
		}
		f.sameState("entity "+entity, id, before)
	}
	// Both hold 1,000: an entity's check sees them all.
	step := f.stepOf(id)
	step.Entity = "e"
	outcome := f.outcome(f.deliver(f.deduct(step, "m", 3*int64(most)+3))[0])
	if outcome.Error != nil {
		t.Fatal(outcome.Error)
	}
	if outcome.Code != balance.Included || outcome.Pool.Remaining() != 3*int64(most)-3 || len(outcome.Deductions) != most+1 {
		t.Errorf("%s, %d left, %d lines", outcome.Code, outcome.Pool.Remaining(), len(outcome.Deductions))
	}
}

// TestAPoolOfManyBalancesShowsTheFirstAndAddsUpAll is fault 6: a result of more than the broker takes, of
// which everything was deducted.
func TestAPoolOfManyBalancesShowsTheFirstAndAddsUpAll(t *testing.T) {
	shown := int(number("LIMIT", "shown"))
	const id, units = "acme", balance.MaxUnits // so that no double counts the sum
	for _, n := range []int{shown, shown + 1, 1000} {
		f := newFixture(t)
		f.command(f.store.CustomerPut(f.stepOf(id), f.items, "", "", ""))
		f.command(f.store.BalanceGrant(f.stepOf(id), f.items, Grant{FeatureID: "m", BalanceID: "gift", Units: units}))
		f.multiply(f.store.customerKey(id), "m", n)
		check := f.deduct(f.stepOf(id), "m", 3)
		first := f.deliver(check)
		f.mustReplay("redelivered", []Call{check}, first)
		outcome := f.outcome(first[0])
		if outcome.Error != nil {
			t.Fatal(outcome.Error)
		}
		sum := outcome.Pool.Sum()
		if outcome.Code != balance.Included || sum.Granted != int64(n)*units || sum.Remaining != int64(n)*units-3 || sum.Usage != 3 {
			t.Errorf("%d balances: %s, %+v", n, outcome.Code, sum)
		}
		if len(outcome.Pool.Balances) != min(n, shown) || (outcome.Pool.Totals != nil) != (n > shown) {
			t.Errorf("%d balances: %d shown, %+v", n, len(outcome.Pool.Balances), outcome.Pool.Totals)
		}
		if lines := outcome.Deductions; len(lines) != 1 || lines[0].Amount != 3 || lines[0].Balance.ID("m") != "gift" {
			t.Errorf("%d balances: %+v", n, lines)
		}
		const most = 64 << 10
		if size := len(first[0].outcome); size > most {
			t.Errorf("%d balances: an outcome of %d bytes", n, size)
		}
	}
}

// TestAPoolOfManyEntitiesShowsTheFirstAndAddsUpAll is fault 6 for what entities hold.
func TestAPoolOfManyEntitiesShowsTheFirstAndAddsUpAll(t *testing.T) {
	const id, entities, each = "acme", 150, 30
	onBothLedgers(t, func(t *testing.T, f *fixture) {
		perEntity := monthly("m", each)
		perEntity.PerEntity = "seats"
		f.items = NewItems(balance.NewCatalog("v", []balance.Feature{metered, ofSeats}, []balance.Plan{
			{ID: "team", Group: "a", Items: []balance.Item{perEntity, {FeatureID: "seats", Number: 1, Included: entities}}},
		}))
		f.command(f.store.CustomerPut(f.stepOf(id), f.items, "", "", ""))
		f.command(f.attach(id, "team"))
		var calls []Call
		for n := range entities {
			calls = append(calls, f.newEntity(id, fmt.Sprint("e", n)))
		}
		f.run(calls...)
		used := int64(0)
		for _, units := range []int64{1, entities*each - 100, 90} { // the last of the second, and all of the third, is of entities that are not shown
			check := f.deduct(f.stepOf(id), "m", units)
			first := f.deliver(check)
			f.mustReplay("redelivered", []Call{check}, first)
			outcome := f.outcome(first[0])
			used += units
			if sum := outcome.Pool.Sum(); outcome.Code != balance.Included || sum.Granted != entities*each || sum.Usage != used || sum.Remaining != entities*each-used {
				t.Errorf("%d taken: %s, %+v", used, outcome.Code, sum)
			}
			if shown := int(number("LIMIT", "shown")); len(outcome.Pool.Balances) != shown {
				t.Errorf("%d balances shown", len(outcome.Pool.Balances))
			}
			taken := int64(0)
			for _, line := range outcome.Deductions {
				taken += line.Amount
			}
			if taken != units {
				t.Errorf("lines of %d, taken were %d", taken, units)
			}
		}
	})
}

// TestAnEmailDoesNotWeighOnChecks is fault 14: a profile of more than 64 bytes made a customer's hash a
// large one.
func TestAnEmailDoesNotWeighOnChecks(t *testing.T) {
	const id = "acme"
	onBothLedgers(t, func(t *testing.T, f *fixture) {
		f.command(f.store.CustomerPut(f.stepOf(id), f.items, "", "", ""))
		key := f.store.customerKey(id)
		size := func() int {
			f.forget(id)
			packed, err := msgp.AppendIntf(nil, withoutLedgers(f.values(key)))
			if err != nil {
				t.Fatal(err)
			}
			return len(packed)
		}
		before := size()
		long := fmt.Sprintf("%0200d@example.com", 7)
		f.command(f.store.CustomerPut(f.stepOf(id), f.items, long, long, fmt.Sprintf(`{"a":"%02000d"}`, 7)))
		if after := size(); after > before+8 {
			t.Errorf("%d bytes, then %d", before, after)
		}
		profile := f.profileOf(id).Profile
		if profile.Email != long || profile.Name != long {
			t.Errorf("got %+v", profile)
		}
		f.command(f.store.CustomerDelete(f.stepOf(id), f.items))
		f.command(f.store.CustomerPut(f.stepOf(id), f.items, "", "", ""))
		if profile := f.profileOf(id).Profile; profile.Email != "" || profile.Metadata != "" {
			t.Errorf("the next customer with the id has %+v", profile)
		}
	})
}

// TestWhatIsLeftWithRolloversIsExactBeyondTheLargestAmount is a regression: a balance and its rollovers were added up as one double.
func TestWhatIsLeftWithRolloversIsExactBeyondTheLargestAmount(t *testing.T) {
	const most = balance.MaxUnits - 2
	f := newFixture(t)
	rolling := monthly("m", 3)
	rolling.Rollover = &balance.Rollover{Max: 1000, ExpiryMonths: 12}
	f.items = NewItems(balance.NewCatalog("v", []balance.Feature{metered}, []balance.Plan{{ID: "rolls", AddOn: true, Items: []balance.Item{rolling}}}))
	f.command(f.store.PlanAttach(f.step(), f.items, f.items.catalog.Plan("rolls"), nil, time.Time{}, 0))
	for range int(number("LIMIT", "shown")) {
		f.command(f.grant(1))
	}
	f.now = f.now.AddDate(0, 2, 1) // two rollovers of three
	before := f.left()
	f.command(f.store.BalanceUpdate(f.step(), f.items, "m", "rolls/m", FieldAdd, most-3))
	if got := f.outcome(f.run(f.check(0, false))[0]).Pool.Sum().Remaining; got != before+most-3 {
		t.Errorf("%d left, want %d", got, before+most-3)
	}
}
