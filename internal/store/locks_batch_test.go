package store

import (
	"bytes"
	"cmp"
	"fmt"
	"reflect"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"tollgate/internal/balance"
)

// sameDecoded says that two replies tell the same.
func sameDecoded(call *Call, x, y Reply) bool {
	if call.script == checkScript {
		a, _ := ReadCheckOutcome(x)
		b, _ := ReadCheckOutcome(y)
		return reflect.DeepEqual(a, b)
	}
	a, _ := ReadCommandOutcome(x)
	b, _ := ReadCommandOutcome(y)
	for _, o := range []*CommandOutcome{a, b} { // results have them by feature
		byFeature := func(x, y balance.Pool) int { return cmp.Compare(x.FeatureID, y.FeatureID) }
		slices.SortStableFunc(o.Pools, byFeature)
		if o.Profile != nil {
			slices.SortFunc(o.Profile.Locks, func(x, y balance.Lock) int { return cmp.Compare(x.ID, y.ID) })
			for i := range o.Profile.Entities {
				slices.SortStableFunc(o.Profile.Entities[i].Pools, byFeature)
			}
		}
	}
	return reflect.DeepEqual(a, b)
}

// Steps of one call are answered as in calls of their own.
func TestStepsOfOneCallAreAnsweredAsAlone(t *testing.T) {
	plans := []balance.Plan{{ID: "p", Group: "base", Items: []balance.Item{
		{FeatureID: "m", Number: 1, Included: 20, Reset: balance.Reset{Interval: balance.Hour, Count: 1}, Rollover: &balance.Rollover{Max: 50, ExpiryMonths: 1}},
		{FeatureID: "m", Number: 2, Included: 5, Reset: balance.Reset{Interval: balance.Day, Count: 1}, PerEntity: "seats", Rollover: &balance.Rollover{Max: 9, ExpiryMonths: 0},
			Price: &balance.ItemPrice{Method: balance.UsageBased, BillingUnits: 1, MaxPurchase: 7}},
		{FeatureID: "credits", Number: 1, Included: 30, Reset: balance.Reset{Interval: balance.Day, Count: 1}},
		{FeatureID: "seats", Number: 1, Included: 1000},
	}}, {ID: "q", Group: "base", Items: []balance.Item{
		{FeatureID: "m", Number: 1, Included: 30, Reset: balance.Reset{Interval: balance.Hour, Count: 1}},
		{FeatureID: "seats", Number: 1, Included: 1000},
	}}}
	catalog := balance.NewCatalog("v", []balance.Feature{metered, seats, lockCredits}, plans)
	fewStories(t)
	rapid.Check(t, func(r *rapid.T) {
		alone, together := newFixture(t), newFixture(t)
		both := []*fixture{alone, together}
		for _, f := range both {
			f.items = NewItems(catalog)
			f.run(f.store.PlanAttach(f.step(), f.items, &catalog.Plans[0], nil, time.Time{}, 0))
			for n := range 2 {
				step := f.step()
				step.Entity = fmt.Sprint("e", n)
				f.run(f.store.EntityCreate(step, f.items, "seats", "", []Need{{FeatureID: "seats", Units: 1}}))
			}
		}
		for range rapid.IntRange(1, 6).Draw(r, "batches") {
			var calls [2][]Call
			onlyCommands := rapid.IntRange(0, 2).Draw(r, "only commands") > 0
			add := func(make func(f *fixture, step Step) Call) {
				for i, f := range both {
					calls[i] = append(calls[i], make(f, f.step()))
				}
			}
			for range rapid.IntRange(1, 12).Draw(r, "steps") {
				entity := rapid.SampledFrom([]string{"", "e0", "e1"}).Draw(r, "entity")
				id := fmt.Sprint("l", rapid.IntRange(0, 4).Draw(r, "lock"))
				units := rapid.Int64Range(-20, 40).Draw(r, "units")
				minutes := time.Duration(rapid.IntRange(1, 200).Draw(r, "minutes")) * time.Minute
				what := rapid.IntRange(0, 12).Draw(r, "what")
				if onlyCommands {
					what = 4 + what%9
				}
				switch what {
				case 0, 1, 2:
					add(func(f *fixture, step Step) Call {
						step.Entity = entity
						return f.store.Check(&Check{Step: step, FeatureID: "m", Needs: lockNeeds(max(0, units)), Deduct: true, Lock: &LockRequest{ID: id, OverageBehavior: "allow", ExpiresMs: f.now.Add(minutes).UnixMilli()}}, f.items)
					})
				case 3:
					add(func(f *fixture, step Step) Call {
						step.Entity = entity
						return f.store.Check(&Check{Step: step, FeatureID: "m", Needs: lockNeeds(units), Deduct: true}, f.items)
					})
				case 4, 5, 6:
					finalize := LockFinalize{ID: id, Action: rapid.SampledFrom([]string{"confirm", "release"}).Draw(r, "action"), EventID: "x"}
					if finalize.Action == "confirm" && rapid.Bool().Draw(r, "override") {
						d, _ := balance.ParseDecimal(fmt.Sprint(max(0, units)))
						finalize.Override = &d
					}
					add(func(f *fixture, step Step) Call { return f.store.LockFinalize(step, f.items, finalize) })
				case 7:
					add(func(f *fixture, step Step) Call {
						return f.store.LockExtend(step, f.items, id, f.now.Add(minutes).UnixMilli())
					})
				case 8:
					add(func(f *fixture, step Step) Call { return f.store.CustomerGet(step, f.items) })
				case 9:
					add(func(f *fixture, step Step) Call {
						step.Entity = entity
						return f.store.Track(step, f.items, "cap", [][]Need{lockNeeds(units), lockNeeds(1)})
					})
				case 10:
					plan := rapid.IntRange(0, 1).Draw(r, "plan")
					add(func(f *fixture, step Step) Call {
						return f.store.PlanAttach(step, f.items, &catalog.Plans[plan], nil, time.Time{}, 0)
					})
				case 11:
					if rapid.IntRange(0, 3).Draw(r, "delete") > 0 {
						add(func(f *fixture, step Step) Call { return f.store.LockGet(step, f.items, id) })
						continue
					}
					add(func(f *fixture, step Step) Call { return f.store.CustomerDelete(step, f.items) })
					add(func(f *fixture, step Step) Call { return f.store.CustomerPut(step, f.items, "", "", "") })
					add(func(f *fixture, step Step) Call {
						return f.store.PlanAttach(step, f.items, &catalog.Plans[0], nil, time.Time{}, 0)
					})
				case 12:
					if rapid.Bool().Draw(r, "create") {
						add(func(f *fixture, step Step) Call {
							step.Entity = "e1"
							return f.store.EntityCreate(step, f.items, "seats", "", []Need{{FeatureID: "seats", Units: 1}})
						})
					} else {
						add(func(f *fixture, step Step) Call {
							step.Entity = "e1"
							return f.store.EntityDelete(step, f.items, "", []SeatNeeds{{"seats", []Need{{FeatureID: "seats", Units: -1}}}})
						})
					}
				}
			}
			got := together.run(calls[1]...)
			for i, call := range calls[0] {
				want := alone.run(call)[0]
				if !sameDecoded(&call, want, got[i]) || fmt.Sprint(want.Err) != fmt.Sprint(got[i].Err) || bytes.Contains(want.outcome, []byte("internal_error")) {
					r.Fatalf("step %d: alone %q %v,\ntogether %q %v", i, want.outcome, want.Err, got[i].outcome, got[i].Err)
				}
			}
			// Redelivered, they are answered the same.
			var redelivered []Call
			for _, call := range calls[1] {
				redelivered = append(redelivered, again(call))
			}
			pass := time.Duration(rapid.IntRange(0, 120).Draw(r, "pass")) * time.Minute
			alone.now, together.now = alone.now.Add(pass), together.now.Add(pass)
			for i, reply := range together.run(redelivered...) {
				if !reply.Replayed || !bytes.Equal(reply.outcome, got[i].outcome) {
					r.Fatalf("step %d redelivered: %q, was %q", i, reply.outcome, got[i].outcome)
				}
			}
		}
	})
}
