package store

import (
	"fmt"
	"testing"
	"time"

	"pgregory.net/rapid"

	"tollgate/internal/balance"
)

// A customer of many entities: the sums are those of its entities, what may go back does, and once all locks are settled nothing is held.
func TestTheSumsOfACrowdAreThoseOfItsEntities(t *testing.T) {
	const entities = 103
	plan := balance.Plan{ID: "p", Group: "base", Items: []balance.Item{
		{FeatureID: "m", Number: 1, Included: 20, Reset: balance.Reset{Interval: balance.Hour, Count: 1}, Rollover: &balance.Rollover{Max: 50, ExpiryMonths: 3}},
		{FeatureID: "m", Number: 2, Included: 5, Reset: balance.Reset{Interval: balance.Day, Count: 1}, PerEntity: "seats", Rollover: &balance.Rollover{Max: 9, ExpiryMonths: 3},
			Price: &balance.ItemPrice{Method: balance.UsageBased, BillingUnits: 1, MaxPurchase: 3}},
		{FeatureID: "seats", Number: 1, Included: 1000},
	}}
	fewStories(t)
	rapid.Check(t, func(r *rapid.T) {
		f := newFixture(t)
		f.crowd(entities, plan)
		units := func(most int64) int64 {
			if rapid.Bool().Draw(r, "many") {
				most = 800
			}
			return rapid.Int64Range(0, most).Draw(r, "units")
		}
		sums := func(allSettled bool) balance.Totals {
			of := f.of("")
			want := balance.Totals{}
			add := func(b *balance.Balance) {
				want.Granted, want.Remaining, want.Usage, want.Held = want.Granted+b.Granted(), want.Remaining+b.Remaining(), want.Usage+b.Usage(), want.Held+b.Held
				if b.Held < 0 || b.Held > b.Usage() || (allSettled && b.Held != 0) || b.Over < 0 || b.IncludedLeft > b.Included {
					r.Fatalf("%+v", *b)
				}
			}
			for n := range entities {
				pool := f.of(fmt.Sprint("e", n))
				for i := range pool.Balances {
					if pool.Balances[i].Entity != "" || n == 0 {
						add(&pool.Balances[i])
					}
				}
			}
			got := of.Sum()
			if got.Granted != want.Granted || got.Remaining != want.Remaining || got.Usage != want.Usage || got.Held != want.Held {
				r.Fatalf("the sums are %+v, of the entities %+v", got, want)
			}
			return want
		}
		sums(false)
		for n := range rapid.IntRange(1, 25).Draw(r, "steps") {
			step := f.step()
			step.Entity = rapid.SampledFrom([]string{"", "", "e0", "e50", "e102"}).Draw(r, "entity")
			check := func(units int64, lock *LockRequest) *decided {
				got := f.outcome(f.run(f.store.Check(&Check{Step: step, FeatureID: "m", Needs: []Need{{FeatureID: "m", Units: units}}, Deduct: true, Lock: lock}, f.items))[0])
				if got.Code == balance.InternalError {
					r.Fatal(got.Error)
				}
				return got
			}
			switch rapid.IntRange(0, 8).Draw(r, "what") {
			case 0, 1, 2:
				check(units(20), &LockRequest{ID: fmt.Sprint("l", n), OverageBehavior: "cap", ExpiresMs: f.now.Add(time.Duration(rapid.IntRange(1, 2000).Draw(r, "minutes")) * time.Minute).UnixMilli()})
			case 3, 4:
				finalize := LockFinalize{ID: fmt.Sprint("l", rapid.IntRange(0, n).Draw(r, "lock")), Action: rapid.SampledFrom([]string{"confirm", "release"}).Draw(r, "action"), EventID: "x"}
				if finalize.Action == "confirm" {
					d, _ := balance.ParseDecimal(fmt.Sprint(units(40)))
					finalize.Override = &d
				}
				step.Entity = ""
				out := f.carryOut(f.store.LockFinalize(step, f.items, finalize))
				if out.Error != nil && out.Error.Code == balance.InternalError {
					r.Fatal(out.Error)
				}
			case 5, 6:
				check(units(12), nil)
			case 7:
				if step.Entity != "" {
					check(-units(12), nil)
					continue
				}
				before, back := f.of("").Sum(), units(12)
				check(-back, nil)
				after := f.of("").Sum()
				if got := before.Usage - after.Usage; got != min(back, before.Usage-before.Held) {
					r.Fatalf("of %+v %d goes back, %d did", before, back, got)
				}
			case 8:
				f.now = f.now.Add(time.Duration(rapid.IntRange(1, 1500).Draw(r, "minutes")) * time.Minute)
			}
			if n%4 == 0 {
				sums(false)
			}
		}
		f.now = f.now.Add(35 * time.Hour)
		sums(true)
	})
}
