package store

import (
	"fmt"
	"math"
	"regexp"
	"slices"
	"strconv"
	"testing"
	"time"

	"tollgate/internal/balance"
)

var seats = balance.Feature{ID: "seats", Type: balance.Metered}

// planOfSeats is a plan that gives each seat some of m.
func planOfSeats(id string, each int64) balance.Plan {
	return balance.Plan{ID: id, Group: "base", Items: []balance.Item{
		{FeatureID: "m", Number: 1, Included: each, PerEntity: "seats", Reset: balance.Reset{Interval: balance.Month, Count: 1}},
		{FeatureID: "seats", Number: 1, Included: 1_000_000},
	}}
}

// newCrowd is a fixture whose customer has the plan team and so many entities, with 10 of m each.
func newCrowd(t *testing.T, entities int) (*fixture, *balance.Catalog) {
	t.Helper()
	return newCrowdOn(t, entities, planOfSeats("team", 10), planOfSeats("large", 20))
}

// newCrowdOn is a fixture whose customer has the first of the plans, and so many entities.
func newCrowdOn(t *testing.T, entities int, plans ...balance.Plan) (*fixture, *balance.Catalog) {
	t.Helper()
	f := newFixture(t)
	return f, f.crowd(entities, plans...)
}

// crowd gives the customer the first of the plans, and so many entities.
func (f *fixture) crowd(entities int, plans ...balance.Plan) *balance.Catalog {
	f.Helper()
	catalog := balance.NewCatalog("v", []balance.Feature{metered, seats}, plans)
	f.items = NewItems(catalog)
	f.run(f.store.PlanAttach(f.step(), f.items, &catalog.Plans[0], nil, time.Time{}, 0))
	var calls []Call
	for n := range entities {
		step := f.step()
		step.Entity = fmt.Sprint("e", n)
		calls = append(calls, f.store.EntityCreate(step, f.items, "seats", "", []Need{{FeatureID: "seats", Units: 1}}))
	}
	f.run(calls...)
	return catalog
}

var getCalls = regexp.MustCompile(`cmdstat_get:calls=(\d+)`)

// gets is how often Redis was asked to GET, 0 where it does not tell.
func (f *fixture) gets() int {
	info, _ := f.client.Info(f.Context(), "commandstats").Result()
	if found := getCalls.FindStringSubmatch(info); found != nil {
		n, _ := strconv.Atoi(found[1])
		return n
	}
	return 0
}

// sendOnce sends a call once, and again only if another test has flushed the scripts. It returns what is to be sent again.
func (f *fixture) sendOnce(call Call) (again []int) {
	f.Helper()
	for {
		again, missing, err := f.store.send(f.Context(), f.now, []Call{call}, [][]int{{0}}, make([]Reply, 1))
		if err != nil {
			f.Fatal(err)
		}
		if missing == nil {
			return again
		}
		if err := missing.load(f.Context(), f.client); err != nil {
			f.Fatal(err)
		}
	}
}

// TestACheckOfTheCustomerIsFlatInItsEntities is a regression: it read every one of them.
func TestACheckOfTheCustomerIsFlatInItsEntities(t *testing.T) {
	client := ownRedis(t) // others would be counted too
	var reads []int
	for _, entities := range []int{150, 1200} {
		f := newFixtureOn(t, client, false)
		f.crowd(entities, planOfSeats("team", 10))
		own := int64(10)
		f.run(f.check(own+1234, true)) // takes all of 123 entities and some of the next
		before := f.gets()
		got := f.outcome(f.run(f.check(10, true))[0])
		reads = append(reads, f.gets()-before)
		if want := own + int64(10*entities) - (own + 1234) - 10; got.Pool.Remaining() != want || got.Amount != 10 {
			t.Errorf("of %d entities: %d left, want %d; %d taken", entities, got.Pool.Remaining(), want, got.Amount)
		}
		if got.Pool.Totals == nil || len(got.Pool.Balances) != 100 {
			t.Errorf("of %d entities: %d balances are shown, totals %+v", entities, len(got.Pool.Balances), got.Pool.Totals)
		}
		for _, line := range got.Deductions {
			if line.Balance.Entity != "e123" && line.Balance.Entity != "e124" {
				t.Errorf("of %d entities: taken from %+v", entities, line.Balance)
			}
		}
	}
	if reads[1] > reads[0] {
		t.Errorf("%d keys are read of 150 entities, %d of 1200", reads[0], reads[1])
	}
}

// TestAPlanOfManyEntitiesIsChangedInBoundedSteps is a regression: one call did all of it, and from some thousand
// entities on it failed.
func TestAPlanOfManyEntitiesIsChangedInBoundedSteps(t *testing.T) {
	const entities = 700
	f, catalog := newCrowd(t, entities)
	f.run(f.check(10+7, true))
	attach := f.store.PlanAttach(f.step(), f.items, catalog.Plan("large"), nil, time.Time{}, 0)
	// One call: whoever comes next goes on.
	if left := f.sendOnce(attach); len(left) != 1 {
		t.Fatalf("the plan of %d entities was changed at once", entities)
	}
	step := f.step()
	step.Entity = fmt.Sprint("e", entities-1)
	of := f.store.Check(&Check{Step: step, FeatureID: "m", Needs: []Need{{FeatureID: "m", Units: 20}}, Deduct: true}, f.items)
	of.source, of.log = "checks", f.store.logKey("checks") // of one source, records come in their order
	if got := f.outcome(f.run(of)[0]); got.Code != balance.Included {
		t.Errorf("an entity was asked for what it has by the plan that was attached: %+v", got)
	}
	reply := f.run(again(attach))[0]
	outcome, err := ReadCommandOutcome(reply)
	if err != nil || outcome.Error != nil {
		t.Fatalf("%+v, %v: %+v", outcome, err, reply)
	}
	if left, want := f.left(), int64(20*entities-20); left != want {
		t.Errorf("%d left, want %d", left, want)
	}
	if reply := f.run(again(attach))[0]; !reply.Replayed {
		t.Errorf("the command is not remembered: %+v", reply)
	}
}

// TestResetsOfManyEntitiesAreAppliedInBoundedSteps is a regression: the first check of a period read and wrote all.
func TestResetsOfManyEntitiesAreAppliedInBoundedSteps(t *testing.T) {
	const entities = 450
	f, _ := newCrowd(t, entities)
	f.run(f.check(10+777, true))
	f.now = f.now.AddDate(0, 1, 1)
	check := f.check(1, true)
	check.wantsRows = true
	if left := f.sendOnce(check); len(left) != 1 {
		t.Fatal("all is reset at once")
	}
	got := f.outcome(f.run(again(check))[0])
	if want := int64(10*entities - 1); got.Pool.Remaining() != want {
		t.Errorf("%d left, want %d", got.Pool.Remaining(), want)
	}
}

// TestSumsOfSharedBalancesAreExact is a regression: what one entity adds was a double, which counts no unit beyond
// 2^53.
func TestSumsOfSharedBalancesAreExact(t *testing.T) {
	const entities, each = 150, balance.MaxUnits
	plan := planOfSeats("team", each)
	second := plan.Items[0]
	second.Number = 2
	plan.Items = append(plan.Items, second)
	f, _ := newCrowdOn(t, entities, plan)
	for used := int64(1); used <= 5; used++ {
		step := f.step()
		step.Entity = "e7"
		f.run(f.store.Check(&Check{Step: step, FeatureID: "m", Needs: []Need{{FeatureID: "m", Units: 1}}, Deduct: true}, f.items))
		const granted = 10 + 2*entities*each
		if got := f.outcome(f.run(f.check(0, false))[0]).Pool.Sum(); got.Usage != used || got.Remaining != granted-used || got.Granted != granted {
			t.Errorf("after %d units: %+v", used, got)
		}
	}
}

// TestTimestampsOfAnySizeTellRecordsApart is a regression: the largest came back as another from Lua, and the record
// was taken for a new one.
func TestTimestampsOfAnySizeTellRecordsApart(t *testing.T) {
	f := newFixture(t)
	for _, timestampMs := range []int64{math.MinInt64, -1, 0, 1 << 53, math.MaxInt64 - 1, math.MaxInt64} {
		step := f.step()
		step.Origin.TimestampMs = timestampMs
		call := f.store.Check(&Check{Step: step, FeatureID: "m", Needs: []Need{{FeatureID: "m", Units: 1}}, Deduct: true}, f.items)
		first := f.outcome(f.run(call)[0]).Pool.Remaining()
		if reply := f.run(again(call))[0]; !reply.Replayed || f.left() != first {
			t.Errorf("timestamp %d: %d left, then %d", timestampMs, first, f.left())
		}
	}
}

// TestUsageBeyondEverythingGoesToTheLastEntity: what usage.track records although nothing allows it is overage of the
// balance that would be drawn from last.
func TestUsageBeyondEverythingGoesToTheLastEntity(t *testing.T) {
	const entities, own = 150, 10
	f, _ := newCrowd(t, entities)
	for n, units := range []int64{own + 10*entities, 7} {
		outcome := f.command(f.store.Track(f.step(), f.items, "allow", [][]Need{{{FeatureID: "m", Units: units}}}))
		lines := outcome.Events[0].Draws[0].Deductions
		last := lines[len(lines)-1]
		if outcome.Events[0].Draws[0].Amount != units || last.Balance.Entity != fmt.Sprint("e", entities-1) || n == 1 && (len(lines) != 1 || last.Kind != balance.KindOverage) {
			t.Errorf("of %d: %d in %d lines, the last %+v of %+v", units, outcome.Events[0].Draws[0].Amount, len(lines), last, last.Balance)
		}
	}
}

// TestAnEntityThatCannotBeReadIsPassedOverByResets is a regression: it kept every check of the customer from being decided.
func TestAnEntityThatCannotBeReadIsPassedOverByResets(t *testing.T) {
	const entities = 120
	f, _ := newCrowd(t, entities)
	f.run(f.check(10+15, true)) // of e0 and e1
	if err := f.client.Set(f.Context(), entityKey(f.store.customerKey("c"), "e7"), "spoiled", 0).Err(); err != nil {
		t.Fatal(err)
	}
	f.now = f.now.Add(32 * 24 * time.Hour)
	got := f.outcome(f.run(f.check(1, false))[0])
	const left = 10 * entities
	if got.Code != balance.Included || got.Pool.Remaining() != left {
		t.Errorf("got %s with %d left, want %d", got.Code, got.Pool.Remaining(), left)
	}
}

// TestRowsAreForAllStepsOfACall is a regression: a step that had not asked for the catalogue's rows was reset without them
// if one beside it had.
func TestRowsAreForAllStepsOfACall(t *testing.T) {
	items := &Items{all: []byte("all")}
	a, b := []byte("a"), []byte("b")
	for _, c := range []struct {
		name  string
		calls []Call
		want  []byte
	}{
		{"nobody asked", []Call{{rows: a, items: items}, {rows: b, items: items}}, nil},
		{"one asked, of the same feature", []Call{{rows: a, items: items}, {rows: a, items: items, wantsRows: true}}, a},
		{"one asked, of another feature", []Call{{rows: a, items: items}, {rows: b, items: items, wantsRows: true}}, items.all},
		{"one has none", []Call{{items: items}, {rows: b, items: items, wantsRows: true}}, items.all},
	} {
		if got := rowsOf(c.calls, []int{0, 1}); string(got) != string(c.want) {
			t.Errorf("%s: got %q, want %q", c.name, got, c.want)
		}
	}
}

// ofAnyCrowd runs a test with as many entities as a queue has no room for, and with some that it has.
func ofAnyCrowd(t *testing.T, plan balance.Plan, test func(t *testing.T, f *fixture, entities int)) {
	client := ownRedis(t)
	for _, entities := range []int{150, 2100} {
		t.Run(strconv.Itoa(entities), func(t *testing.T) {
			f := newFixtureOn(t, client, false)
			f.crowd(entities, plan)
			test(t, f, entities)
		})
	}
}

// eachTakes has every entity deduct something.
func (f *fixture) eachTakes(entities int, units int64) {
	f.Helper()
	var calls []Call
	for n := range entities {
		step := f.step()
		step.Entity = fmt.Sprint("e", n)
		calls = append(calls, f.deduct(step, "m", units))
	}
	f.run(calls...)
}

var unboundedOverage = &balance.ItemPrice{Method: balance.UsageBased, BillingUnits: 1, MaxPurchase: balance.Unbounded}

// TestTheCustomersOwnOverageComesBeforeThatOfItsEntities is a regression: many entities were looked for in vain.
func TestTheCustomersOwnOverageComesBeforeThatOfItsEntities(t *testing.T) {
	plan := planOfSeats("team", 0)
	plan.Items[0].Price = &balance.ItemPrice{Method: balance.UsageBased, BillingUnits: 1, MaxPurchase: 1}
	plan.Items = append(plan.Items, balance.Item{FeatureID: "m", Number: 2, Included: 5, Price: unboundedOverage})
	ofAnyCrowd(t, plan, func(t *testing.T, f *fixture, _ int) {
		got := f.outcome(f.run(f.check(5000, true))[0])
		if got.Code != "overage" || got.Amount != 5000 {
			t.Errorf("got %s, %d taken", got.Code, got.Amount)
		}
		for _, line := range got.Deductions {
			if line.Balance.Entity != "" {
				t.Errorf("taken from %+v", line.Balance)
			}
		}
	})
}

// TestTheCustomersOwnOverageIsGivenBackBeforeWhatItsEntitiesUsed is a regression of the same kind.
func TestTheCustomersOwnOverageIsGivenBackBeforeWhatItsEntitiesUsed(t *testing.T) {
	plan := planOfSeats("team", 10)
	plan.Items = append(plan.Items, balance.Item{FeatureID: "m", Number: 2, Price: unboundedOverage})
	ofAnyCrowd(t, plan, func(t *testing.T, f *fixture, entities int) {
		f.command(f.store.BalanceUpdate(f.step(), f.items, "m", "team/m#2", FieldUsage, 5000))
		f.eachTakes(entities, 1)
		got := f.outcome(f.run(f.check(-3000, true))[0])
		if got.Amount != -3000 || len(got.Deductions) != 1 || got.Deductions[0].Balance.Entity != "" {
			t.Errorf("got %s, %d in %d lines", got.Code, got.Amount, len(got.Deductions))
		}
	})
}

// TestRolloversOfManyEntitiesAreGivenBackTo is a regression: not one unit could be if too many had taken from theirs.
func TestRolloversOfManyEntitiesAreGivenBackTo(t *testing.T) {
	plan := planOfSeats("team", 10)
	plan.Items[0].Rollover = &balance.Rollover{Max: 1000, ExpiryMonths: 3}
	ofAnyCrowd(t, plan, func(t *testing.T, f *fixture, entities int) {
		f.now = f.now.AddDate(0, 1, 1)
		f.run(f.check(1, false))
		f.eachTakes(entities, 1)
		got := f.outcome(f.run(f.check(-1, true))[0])
		if got.Amount != -1 || len(got.Deductions) != 1 || got.Deductions[0].Balance.Entity != fmt.Sprint("e", entities-1) {
			t.Errorf("got %s, %d in %d lines", got.Code, got.Amount, len(got.Deductions))
		}
	})
}

// TestAJobPassesOverAnEntityWhoseBalancesCannotBeRead is a regression: no step of the customer was decided any more.
func TestAJobPassesOverAnEntityWhoseBalancesCannotBeRead(t *testing.T) {
	for _, h := range []harm{spoiledPools, unreadable, {"of another kind", func(f *fixture, key string) { f.set(key, "hello") }}} {
		t.Run(h.name, func(t *testing.T) {
			f, catalog := newCrowd(t, 120)
			h.do(f, entityKey(f.store.customerKey("c"), "e5"))
			f.run(f.store.PlanAttach(f.step(), f.items, catalog.Plan("large"), nil, time.Time{}, 0))
			step := f.step()
			step.Entity = "e7"
			if got := f.outcome(f.run(f.deduct(step, "m", 20))[0]); got.Code != balance.Included || got.Amount != 20 {
				t.Errorf("e7 got %s, %d taken %v", got.Code, got.Amount, got.Error)
			}
		})
	}
}

// TestADeletionOfManyEntitiesTakesBoundedSteps: it read and removed all of them in one.
func TestADeletionOfManyEntitiesTakesBoundedSteps(t *testing.T) {
	const entities = 1500
	for _, asked := range []bool{false, true} {
		t.Run(fmt.Sprint("somebody asks in between ", asked), func(t *testing.T) {
			f, _ := newCrowd(t, entities)
			deletion := f.store.CustomerDelete(f.step(), f.items)
			atOnce := int(number("LIMIT", "removals") * number("DIRECTORY", "size"))
			// The first step only leaves the job.
			for left := entities; left > atOnce; left -= atOnce {
				if pending := f.sendOnce(again(deletion)); len(pending) != 1 {
					t.Fatal("all are removed at once")
				}
				if got := len(f.keys("c")); got < left {
					t.Fatalf("%d keys are left of %d", got, left)
				}
			}
			if asked {
				step := f.stepOf("c")
				step.Origin.Source = "another"
				if got := f.outcome(f.run(f.deduct(step, "seats", 1))[0]); got.Error == nil || got.Error.Code != balance.CustomerNotFound {
					t.Errorf("a check is answered %v", got.Code)
				}
			}
			first := f.run(again(deletion))
			if outcome, err := ReadCommandOutcome(first[0]); err != nil || outcome.Error != nil {
				t.Fatal(err, outcome)
			}
			f.mustReplay("the deletion", []Call{deletion}, first)
			if keys := f.keys("c"); len(keys) != 1 {
				t.Errorf("%d keys are left", len(keys))
			}
		})
	}
}

// TestWhatAnUpdateAddsLastsUntilTheNextReset: of a balance and of a pool, of an entity's and of the customer's own.
func TestWhatAnUpdateAddsLastsUntilTheNextReset(t *testing.T) {
	for _, id := range []string{"", "team/m@e3", "gift"} {
		f, _ := newCrowd(t, 5)
		f.command(f.store.BalanceGrant(f.step(), f.items, Grant{FeatureID: "m", BalanceID: "gift", Units: 4, Reset: balance.Reset{Interval: balance.Day, Count: 3}}))
		before := f.left()
		for _, amount := range []int64{7, -2} {
			f.command(f.store.BalanceUpdate(f.step(), f.items, "m", id, FieldAdd, amount))
		}
		if left := f.left(); left != before+5 {
			t.Errorf("%q: %d left, want %d", id, left, before+5)
		}
		f.now = f.now.AddDate(0, 1, 1)
		if left := f.left(); left != before {
			t.Errorf("%q: %d left after the reset, want %d", id, left, before)
		}
	}
}

// TestAnUpdateReadsOnlyTheEntitiesThatItConcerns is a regression: it read and wrote all of them.
func TestAnUpdateReadsOnlyTheEntitiesThatItConcerns(t *testing.T) {
	client := ownRedis(t) // others would be counted too
	updates := []struct {
		id     string
		field  Field
		amount int64
	}{
		{"", FieldRemaining, -45}, {"", FieldRemaining, 45}, {"", FieldUsage, 35}, {"", FieldUsage, -25},
		{"", FieldAdd, 7}, {"", FieldAdd, -33}, {"team/m@e140", FieldAdd, 5}, {"team/m@e140", FieldUsage, 3},
	}
	reads := map[int][]int{}
	for _, entities := range []int{150, 1200} {
		f := newFixtureOn(t, client, false)
		f.crowd(entities, planOfSeats("team", 10))
		f.run(f.check(10+95, true))                         // of nine entities all, and of one a half
		for n, u := range slices.Concat(updates, updates) { // who has something of a kind is looked for once
			before := f.outcome(f.run(f.check(0, false))[0]).Pool.Sum()
			amount := u.amount
			if u.id == "" && u.field == FieldRemaining {
				amount += before.Remaining
			}
			if u.id == "" && u.field == FieldUsage {
				amount += before.Usage
			}
			gets := f.gets()
			f.command(f.store.BalanceUpdate(f.step(), f.items, "m", u.id, u.field, amount))
			if n >= len(updates) {
				reads[entities] = append(reads[entities], f.gets()-gets)
			}
			after := f.outcome(f.run(f.check(0, false))[0]).Pool.Sum()
			if after.Granted != after.Remaining+after.Usage {
				t.Errorf("%s %s %d: %+v", u.id, u.field, amount, after)
			}
			switch {
			case u.field == FieldAdd && after.Granted != before.Granted+u.amount:
				t.Errorf("add %d: %d were granted, now %d", u.amount, before.Granted, after.Granted)
			case u.id == "" && u.field == FieldRemaining && after.Remaining != amount:
				t.Errorf("remaining %d: %+v", amount, after)
			case u.id == "" && u.field == FieldUsage && after.Usage != amount:
				t.Errorf("usage %d: %+v", amount, after)
			case u.id != "" && u.field == FieldUsage && after.Usage != before.Usage+u.amount:
				t.Errorf("usage of %s: %+v, then %+v", u.id, before, after)
			}
		}
	}
	for i, few := range reads[150] {
		if many := reads[1200][i]; many > few+10 {
			t.Errorf("%v: %d reads of 150 entities, %d of 1200", updates[i], few, many)
		}
	}
}
