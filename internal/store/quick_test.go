package store

import (
	"maps"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"pgregory.net/rapid"

	"tollgate/internal/balance"
	"tollgate/internal/servertest"
)

// wholeScript decides every check by the whole of the rules.
var wholeScript = func() *script {
	const both, whole = "return decide_quickly(c) or decide_check(c)", "return decide_check(c)"
	if strings.Count(checkScript.text, both) != 1 {
		panic("check.lua decides otherwise")
	}
	text := strings.Replace(checkScript.text, both, whole, 1)
	return &script{redis.NewScript(text), "check without quick.lua", text}
}()

// mixed is a catalogue with plans for all that a pool may have.
var mixed = balance.NewCatalog("v", []balance.Feature{metered, ofX, ofSeats, ofFlag, ofCredits}, []balance.Plan{
	team("team", 9),
	{ID: "base", Group: "other", Items: []balance.Item{monthly("m", 12), monthly("x", 3)}},
	{ID: "bought", AddOn: true, Items: []balance.Item{{FeatureID: "m", Number: 1, Included: 2, Price: &balance.ItemPrice{BillingUnits: 1, Method: balance.Prepaid}}}},
	{ID: "paid", AddOn: true, Items: []balance.Item{{FeatureID: "x", Number: 1, Price: &balance.ItemPrice{BillingUnits: 1, Method: balance.UsageBased, MaxPurchase: 4}}}},
	{ID: "free", AddOn: true, Items: []balance.Item{{FeatureID: "m", Number: 1, Unlimited: true}}},
	{ID: "large", AddOn: true, Items: []balance.Item{{FeatureID: "x", Number: 1, Included: balance.MaxUnits - 20}}},
})

// needsOf are the pools that a check of a feature may draw from.
func needsOf(feature string, units int64) []Need {
	needs := []Need{{FeatureID: feature, Units: units}}
	if feature == "x" {
		needs = append(needs, Need{FeatureID: "credits", Units: 200 * units})
	}
	return needs
}

// drawCall draws what makes a call, on either fixture.
func drawCall(t *rapid.T) func(f *fixture) Call {
	customer := rapid.SampledFrom([]string{"a", "a", "b", "stranger"}).Draw(t, "customer")
	entity := rapid.SampledFrom([]string{"", "", "e0", "e1", "e2", "nobody"}).Draw(t, "entity")
	feature := rapid.SampledFrom([]string{"m", "m", "x", "credits"}).Draw(t, "feature")
	units := rapid.Int64Range(-2, 14).Draw(t, "units")
	step := func(f *fixture) Step {
		step := f.stepOf(customer)
		step.Entity = entity
		return step
	}
	if rapid.IntRange(0, 3).Draw(t, "kind") > 0 {
		deduct, key := rapid.IntRange(0, 3).Draw(t, "deduct") > 0, rapid.SampledFrom([]string{"", "", "", "k1", "k2"}).Draw(t, "key")
		late := rapid.IntRange(0, 9).Draw(t, "late") == 0
		return func(f *fixture) Call {
			step := step(f)
			step.Remember = deduct
			if deduct && key != "" {
				step.IdempotencyKey, step.IdempotencyWindow = key, time.Hour
				step.Question, step.Memo = []byte(feature+entity), []byte("memo")
			}
			if late {
				step.DeadlineMs = f.now.UnixMilli() - 1
			}
			return f.store.Check(&Check{Step: step, FeatureID: feature, Needs: needsOf(feature, units), Deduct: deduct, Preview: !deduct}, f.items)
		}
	}
	plan := mixed.Plan(rapid.SampledFrom([]string{"team", "base", "bought", "paid", "free", "large"}).Draw(t, "plan"))
	expires := rapid.SampledFrom([]time.Duration{0, 0, time.Hour, 50 * 24 * time.Hour}).Draw(t, "expires")
	return rapid.SampledFrom([]func(f *fixture) Call{
		func(f *fixture) Call {
			return f.store.PlanAttach(step(f), f.items, plan, map[string]int64{"m": units + 2}, time.Time{}, 0)
		},
		func(f *fixture) Call { return f.store.PlanDetach(step(f), f.items, plan.ID) },
		func(f *fixture) Call {
			grant := Grant{FeatureID: feature, Units: units + 2}
			if expires > 0 {
				grant.ExpiresMs = f.now.Add(expires).UnixMilli()
			}
			return f.store.BalanceGrant(step(f), f.items, grant)
		},
		func(f *fixture) Call {
			return f.store.Track(step(f), f.items, "cap", [][]Need{needsOf(feature, units)})
		},
		func(f *fixture) Call {
			return f.store.Track(step(f), f.items, "allow", [][]Need{needsOf(feature, units)})
		},
		func(f *fixture) Call {
			return f.store.BalanceUpdate(step(f), f.items, feature, "", FieldUsage, units+2)
		},
		func(f *fixture) Call { return f.newEntity(customer, "e2") },
		func(f *fixture) Call {
			return f.store.EntityDelete(step(f), f.items, "", []SeatNeeds{{"seats", []Need{{FeatureID: "seats", Units: -1}}}})
		},
		func(f *fixture) Call { return f.store.CustomerDelete(f.stepOf(customer), f.items) },
		func(f *fixture) Call { return f.store.CustomerPut(f.stepOf(customer), f.items, "", "", "") },
	}).Draw(t, "command")
}

// sharedState is what customers' keys hold, without the prefix of the store.
func (f *fixture) sharedState(customers ...string) map[string]string {
	f.Helper()
	state := map[string]string{}
	for _, customer := range customers {
		for key, text := range f.dump(customer) {
			state[strings.TrimPrefix(key, f.store.prefix)] = text
		}
	}
	return state
}

// TestAQuickCheckIsDecidedAsByAllRules plays the same stories twice, the second time without quick.lua. All answers and
// all that is stored must be the same, to the byte.
func TestAQuickCheckIsDecidedAsByAllRules(t *testing.T) {
	client := servertest.Redis(t)
	quick := 0
	rapid.Check(t, func(r *rapid.T) {
		inCluster := rapid.Bool().Draw(r, "in a Cluster")
		var sides [2]*fixture
		for i := range sides {
			sides[i] = newFixtureOn(t, client, inCluster)
			sides[i].newTeam("a")
			sides[i].items = NewItems(mixed)
		}
		for range rapid.IntRange(1, 12).Draw(r, "batches") {
			var draws []func(f *fixture) Call
			for range rapid.IntRange(1, 8).Draw(r, "calls") {
				draws = append(draws, drawCall(r))
			}
			var replies [2][]Reply
			var calls [2][]Call
			for i, f := range sides {
				for _, draw := range draws {
					call := draw(f)
					if i == 1 && call.script == checkScript {
						call.script = wholeScript
					}
					calls[i] = append(calls[i], call)
				}
				replies[i] = f.deliver(calls[i]...)
			}
			for n := range draws {
				if calls[0][n].script != checkScript {
					if !reflect.DeepEqual(replies[0][n], replies[1][n]) {
						r.Fatalf("%s answers %q, else %q", calls[0][n].kind, replies[0][n].outcome, replies[1][n].outcome)
					}
					continue
				}
				if outcome := replies[0][n].outcome; len(outcome) > 0 && int64(outcome[0]) == markQuick {
					quick++
				}
				got, want := sides[0].outcome(replies[0][n]), sides[1].outcome(replies[1][n])
				if !reflect.DeepEqual(got, want) {
					r.Fatalf("call %d of feature %v: quickly %+v, else %+v", n, calls[0][n].needs, got, want)
				}
			}
			for _, customer := range []string{"a", "b"} {
				got, want := sides[0].sharedState(customer), sides[1].sharedState(customer)
				for _, key := range slices.Sorted(maps.Keys(want)) {
					if got[key] != want[key] && !strings.Contains(key, ":i:") && !inCluster {
						r.Fatalf("%s holds\n%q, else\n%q", key, got[key], want[key])
					}
				}
				if len(got) != len(want) {
					r.Fatalf("%s has %d keys, else %d", customer, len(got), len(want))
				}
			}
			pass := rapid.SampledFrom([]time.Duration{0, time.Minute, 2 * time.Hour, 31 * 24 * time.Hour}).Draw(r, "time passes")
			for _, f := range sides {
				f.now = f.now.Add(pass)
			}
		}
	})
	if quick == 0 {
		t.Error("no check was decided quickly")
	}
}
