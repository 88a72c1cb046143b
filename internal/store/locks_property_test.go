package store

import (
	"fmt"
	"testing"
	"time"

	"pgregory.net/rapid"

	"tollgate/internal/balance"
)

var lockCredits = balance.Feature{ID: "credits", Type: balance.CreditSystem, Precision: 1, CreditSchema: []balance.CreditCost{{FeatureID: "m", Cost: balance.Decimal{Digits: "7", Exponent: -2}}}}

// lockNeeds is an amount of m, and in lockCredits.
func lockNeeds(units int64) []Need {
	cost := lockCredits.CreditSchema[0].Cost
	n, err := balance.Convert(units, metered.Precision, cost, lockCredits.Precision)
	return []Need{{FeatureID: "m", Units: units}, {FeatureID: "credits", Units: n, Overflows: err != nil, Factor: balance.Factor(metered.Precision, cost, lockCredits.Precision)}}
}

// Whatever happens: of each balance no more is held than is used, and once every lock is settled nothing is held.
func TestNothingIsHeldOnceAllLocksAreSettled(t *testing.T) {
	plans := []balance.Plan{{ID: "p", Group: "base", Items: []balance.Item{
		{FeatureID: "m", Number: 1, Included: 20, Reset: balance.Reset{Interval: balance.Hour, Count: 1}, Rollover: &balance.Rollover{Max: 50, ExpiryMonths: 1}},
		{FeatureID: "m", Number: 2, Included: 5, Reset: balance.Reset{Interval: balance.Day, Count: 1}, PerEntity: "seats", Rollover: &balance.Rollover{Max: 9, ExpiryMonths: 0},
			Price: &balance.ItemPrice{Method: balance.UsageBased, BillingUnits: 1, MaxPurchase: 7}},
		{FeatureID: "credits", Number: 1, Included: 30, Reset: balance.Reset{Interval: balance.Day, Count: 1}, Rollover: &balance.Rollover{Max: 40, ExpiryMonths: 1},
			Price: &balance.ItemPrice{Method: balance.UsageBased, BillingUnits: 1, MaxPurchase: 11}},
		{FeatureID: "seats", Number: 1, Included: 1000},
	}}, {ID: "q", Group: "base", Items: []balance.Item{
		{FeatureID: "m", Number: 1, Included: 30, Reset: balance.Reset{Interval: balance.Hour, Count: 1}},
		{FeatureID: "seats", Number: 1, Included: 1000},
	}}}
	catalog := balance.NewCatalog("v", []balance.Feature{metered, seats, lockCredits}, plans)
	fewStories(t)
	rapid.Check(t, func(r *rapid.T) {
		f := newFixture(t)
		f.items = NewItems(catalog)
		mustRun := func(call Call) Reply {
			reply := f.run(call)[0]
			if reply.Err != nil {
				r.Fatal(reply.Err)
			}
			return reply
		}
		command := func(call Call) *CommandOutcome {
			outcome, err := ReadCommandOutcome(mustRun(call))
			if err != nil {
				r.Fatal(err)
			}
			if outcome.Error != nil && outcome.Error.Code == balance.InternalError {
				r.Fatal(outcome.Error)
			}
			return outcome
		}
		check := func(step Step, units int64, deduct bool, lock *LockRequest) *decided {
			got := f.outcome(mustRun(f.store.Check(&Check{Step: step, FeatureID: "m", Needs: lockNeeds(units), Deduct: deduct, Lock: lock}, f.items)))
			if got.Code == balance.InternalError {
				r.Fatal(got.Error)
			}
			return got
		}
		command(f.store.PlanAttach(f.step(), f.items, &catalog.Plans[0], nil, time.Time{}, 0))
		for n := range 2 {
			step := f.step()
			step.Entity = fmt.Sprint("e", n)
			command(f.store.EntityCreate(step, f.items, "seats", "", []Need{{FeatureID: "seats", Units: 1}}))
		}
		entity := func() string { return rapid.SampledFrom([]string{"", "e0", "e1"}).Draw(r, "entity") }
		locks := map[string]bool{}
		pools := func(allSettled bool) {
			outcome := command(f.store.CustomerGet(f.step(), f.items))
			var all []balance.Pool
			all = append(all, outcome.Pools...)
			for _, e := range outcome.Profile.Entities {
				all = append(all, e.Pools...)
			}
			for _, p := range all {
				for i := range p.Balances {
					b := &p.Balances[i]
					if b.Held < 0 || b.Held > b.Usage() || (allSettled && b.Held != 0) || b.Remaining() < 0 || b.IncludedLeft > b.Included || b.Over < 0 {
						r.Fatalf("%s: %+v", p.FeatureID, *b)
					}
				}
			}
		}
		steps := rapid.IntRange(1, 40).Draw(r, "steps")
		for n := range steps {
			step := f.step()
			step.Entity = entity()
			switch rapid.IntRange(0, 11).Draw(r, "what") {
			case 0, 1, 2, 3:
				id := fmt.Sprint("l", n)
				got := check(step, rapid.Int64Range(0, 60).Draw(r, "units"), true, &LockRequest{ID: id, OverageBehavior: rapid.SampledFrom([]string{"reject", "cap", "allow"}).Draw(r, "behaviour"),
					ExpiresMs: f.now.Add(time.Duration(rapid.IntRange(1, 200).Draw(r, "minutes")) * time.Minute).UnixMilli()})
				if got.LockExpiresMs > 0 {
					locks[id] = true
				}
			case 4, 5, 6:
				step.Entity = ""
				finalize := LockFinalize{ID: fmt.Sprint("l", rapid.IntRange(0, n).Draw(r, "lock")), Action: rapid.SampledFrom([]string{"confirm", "release"}).Draw(r, "action"), EventID: "x"}
				if finalize.Action == "confirm" && rapid.Bool().Draw(r, "override") {
					d, _ := balance.ParseDecimal(fmt.Sprint(rapid.IntRange(0, 90).Draw(r, "value")))
					finalize.Override = &d
				}
				out := command(f.store.LockFinalize(step, f.items, finalize))
				repeat := f.step()
				second := command(f.store.LockFinalize(repeat, f.items, finalize))
				if out.Error == nil && (second.Error != nil || !second.Repeats) {
					r.Fatalf("%+v, %+v", out, second)
				}
				if out.Error == nil {
					var sum int64
					for _, e := range out.Events {
						for _, d := range e.Draws {
							var lines int64
							for _, l := range d.Deductions {
								lines += l.Amount
							}
							if lines != d.Amount {
								r.Fatalf("draw %+v", d)
							}
							sum += lines
						}
					}
				}
			case 7:
				check(step, rapid.Int64Range(-60, 40).Draw(r, "units"), true, nil)
			case 8:
				command(f.store.Track(step, f.items, rapid.SampledFrom([]string{"reject", "cap", "allow"}).Draw(r, "behaviour"), [][]Need{lockNeeds(rapid.Int64Range(-60, 60).Draw(r, "units"))}))
			case 9:
				command(f.store.BalanceUpdate(step, f.items, rapid.SampledFrom([]string{"m", "credits"}).Draw(r, "feature"), "", rapid.SampledFrom([]Field{FieldRemaining, FieldUsage, FieldAdd}).Draw(r, "field"), rapid.Int64Range(0, 60).Draw(r, "units")))
			case 10:
				f.now = f.now.Add(time.Duration(rapid.IntRange(1, 300).Draw(r, "minutes")) * time.Minute)
			case 11:
				step.Entity = ""
				command(f.store.PlanAttach(step, f.items, &catalog.Plans[rapid.IntRange(0, 1).Draw(r, "plan")], nil, time.Time{}, 0))
			}
			pools(false)
		}
		f.now = f.now.Add(25 * time.Hour)
		pools(true)
	})
}
