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
	{ID: "rolls", AddOn: true, Items: []balance.Item{{
		FeatureID: "credits", Number: 1, Included: 700, Reset: balance.Reset{Interval: balance.Month, Count: 1}, Rollover: &balance.Rollover{Max: 900, ExpiryMonths: 1},
	}}},
	{ID: "free", AddOn: true, Items: []balance.Item{{FeatureID: "m", Number: 1, Unlimited: true}}},
	{ID: "large", AddOn: true, Items: []balance.Item{{FeatureID: "x", Number: 1, Included: balance.MaxUnits - 20}}},
})

// needsOf are the pools that a check of a feature may draw from.
func needsOf(feature string, units int64) []Need {
	needs := []Need{{FeatureID: feature, Units: units}}
	if feature == "x" {
		needs = append(needs, Need{FeatureID: "credits", Units: 200 * units, Factor: "200e0"})
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
	plan := mixed.Plan(rapid.SampledFrom([]string{"team", "base", "bought", "paid", "rolls", "free", "large"}).Draw(t, "plan"))
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
	client := ownRedis(t) // looking for keys takes long where others have theirs
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

// TestWhichChecksAreDecidedQuickly: those that one balance covers without taking its last unit, and no others.
func TestWhichChecksAreDecidedQuickly(t *testing.T) {
	month := 31 * 24 * time.Hour
	reset := func(f *fixture) { f.now = f.now.Add(month) }
	give := func(customerOrEntity string, grant Grant) func(f *fixture) {
		return func(f *fixture) {
			step := f.stepOf("acme")
			step.Entity = customerOrEntity
			f.command(f.store.BalanceGrant(step, f.items, grant))
		}
	}
	attach := func(plan string, bought int64) func(f *fixture) {
		return func(f *fixture) {
			f.command(f.store.PlanAttach(f.stepOf("acme"), f.items, mixed.Plan(plan), map[string]int64{"m": bought}, time.Time{}, 0))
		}
	}
	take := func(feature string, units int64) func(f *fixture) {
		return func(f *fixture) { f.run(f.deduct(f.stepOf("acme"), feature, units)) }
	}
	many := func(n int) func(f *fixture) {
		return func(f *fixture) {
			var grants []Call
			for range n {
				grants = append(grants, f.store.BalanceGrant(f.stepOf("acme"), f.items, Grant{FeatureID: "m", Units: 9}))
			}
			f.run(grants...)
		}
	}
	gift := give("", Grant{FeatureID: "m", BalanceID: "gift", Units: 9})
	for _, c := range []struct {
		name   string
		before []func(f *fixture)
		entity string
		needs  []Need
		looks  bool // without send_event
		quick  bool
		code   balance.Code
	}{
		{"less than is left", []func(*fixture){gift}, "", needsOf("m", 8), false, true, balance.Included},
		{"all that is left", []func(*fixture){gift}, "", needsOf("m", 9), false, false, balance.Included},
		{"all that is left, asked for", []func(*fixture){gift}, "", needsOf("m", 9), true, true, balance.Included},
		{"more than is left", []func(*fixture){gift}, "", needsOf("m", 10), false, false, balance.InsufficientFunds},
		{"nothing", []func(*fixture){gift}, "", needsOf("m", 0), false, false, balance.Included},
		{"something back", []func(*fixture){gift, take("m", 4)}, "", needsOf("m", -1), false, false, balance.Included},
		{"nothing is left", []func(*fixture){gift, take("m", 9)}, "", needsOf("m", 1), false, false, balance.InsufficientFunds},
		{"of the second balance", []func(*fixture){gift, give("", Grant{FeatureID: "m", BalanceID: "more", Units: 5}), take("m", 9)}, "", needsOf("m", 4), false, true, balance.Included},
		{"of two balances", []func(*fixture){gift, give("", Grant{FeatureID: "m", BalanceID: "more", Units: 5})}, "", needsOf("m", 10), false, false, balance.Included},
		{"of what was bought", []func(*fixture){attach("bought", 5), take("m", 2)}, "", needsOf("m", 4), false, true, balance.Included},
		{"of what was included and bought", []func(*fixture){attach("bought", 5)}, "", needsOf("m", 3), false, false, balance.Included},
		{"unlimited", []func(*fixture){gift, attach("free", 0)}, "", needsOf("m", 3), false, false, balance.Unlimited},
		{"overage is allowed", []func(*fixture){attach("paid", 0)}, "", needsOf("x", 3), false, true, balance.Included},
		{"beyond what was granted", []func(*fixture){attach("paid", 0), take("x", 16)}, "", []Need{{FeatureID: "x", Units: 1}}, false, false, balance.Overage},
		{"the rest in credits", []func(*fixture){attach("paid", 0), take("x", 15)}, "", needsOf("x", 2), false, false, balance.Included},
		{"what is due", []func(*fixture){reset}, "", needsOf("x", 3), false, false, balance.Included},
		{"expired", []func(*fixture){give("", Grant{FeatureID: "m", Units: 5, ExpiresMs: 1_000_001}), gift, reset}, "", needsOf("m", 3), false, false, balance.Included},
		{"with a rollover", []func(*fixture){attach("rolls", 0), reset, take("credits", 0)}, "", needsOf("credits", 3), false, false, balance.Included},
		{"of credits", []func(*fixture){attach("base", 0)}, "", []Need{{FeatureID: "seats2", Units: 1}, {FeatureID: "credits", Units: 5}}, false, true, balance.Included},
		{"an amount that does not fit", []func(*fixture){gift}, "", []Need{{FeatureID: "m", Overflows: true}}, false, false, balance.AmountOutOfRange},
		{"what entities share", nil, "", needsOf("m", 3), false, false, balance.Included},
		{"of an entity", nil, "e0", needsOf("m", 3), false, true, balance.Included},
		{"of an entity and its customer", []func(*fixture){gift}, "e0", needsOf("m", 10), false, false, balance.Included},
		{"of an entity beside its customer", []func(*fixture){gift}, "e0", needsOf("m", 3), false, true, balance.Included},
		{"of an entity whose customer's is unlimited", []func(*fixture){attach("free", 0)}, "e0", needsOf("m", 3), false, false, balance.Unlimited},
		{"of the customer, by an entity", nil, "e0", needsOf("x", 3), false, true, balance.Included},
		{"of an entity that is none", []func(*fixture){gift}, "nobody", needsOf("m", 3), false, false, balance.EntityNotFound},
		{"50 balances", []func(*fixture){many(50)}, "e0", needsOf("m", 3), false, true, balance.Included},
		{"51 balances", []func(*fixture){many(51)}, "e0", needsOf("m", 3), false, false, balance.Included},
	} {
		t.Run(c.name, func(t *testing.T) {
			onBothLedgers(t, func(t *testing.T, f *fixture) {
				f.items = NewItems(mixed)
				f.command(f.store.CustomerPut(f.stepOf("acme"), f.items, "", "", ""))
				f.command(f.attach("acme", "team"))
				f.command(f.newEntity("acme", "e0"))
				if !strings.Contains(c.name, "entit") { // without what entities share
					f.command(f.store.PlanDetach(f.stepOf("acme"), f.items, "team"))
					f.command(f.store.BalanceGrant(f.stepOf("acme"), f.items, Grant{FeatureID: "credits", BalanceID: "c", Units: 9000, Reset: balance.Reset{Interval: balance.Month, Count: 1}}))
					f.command(f.attach("acme", "base"))
					f.command(f.store.PlanDetach(f.stepOf("acme"), f.items, "base"))
					f.command(f.store.BalanceGrant(f.stepOf("acme"), f.items, Grant{FeatureID: "x", BalanceID: "x", Units: 16, Reset: balance.Reset{Interval: balance.Month, Count: 1}}))
				}
				for _, do := range c.before {
					do(f)
				}
				step := f.stepOf("acme")
				step.Entity, step.Remember = c.entity, !c.looks
				check := f.store.Check(&Check{Step: step, FeatureID: c.needs[0].FeatureID, Needs: c.needs, Deduct: !c.looks}, f.items)
				reply := f.deliver(check)[0]
				if got := int64(reply.outcome[0]) == markQuick; got != c.quick {
					t.Errorf("decided quickly: %t, of %+v", got, f.outcome(reply).Pool)
				}
				outcome := f.outcome(reply)
				if outcome.Code != c.code {
					t.Errorf("%s, want %s", outcome.Code, c.code)
				}
				if kind := balance.Kind("prepaid"); c.name == "of what was bought" && (len(outcome.Deductions) != 1 || outcome.Deductions[0].Kind != kind) {
					t.Errorf("deducted %+v", outcome.Deductions)
				}
			})
		})
	}
}

// TestAnOffsetOfAnotherRecordIsDecidedWithWhatIsBehindIt is a regression: a record that had the offset of another one was
// noted as decided with a call that was not in effect, and was answered that it had been deducted.
func TestAnOffsetOfAnotherRecordIsDecidedWithWhatIsBehindIt(t *testing.T) {
	onBothLedgers(t, func(t *testing.T, f *fixture) {
		f.items = NewItems(teams)
		f.command(f.attach("c", "team"))
		a, b := f.deduct(f.stepOf("c"), "m", 1), f.deduct(f.stepOf("c"), "m", 1)
		f.deliver(a, b)
		f.now = f.now.Add(40 * 24 * time.Hour)
		reused := again(a) // the log was truncated
		reused.step.Origin.TimestampMs++
		replies := f.run(reused, f.deduct(f.stepOf("c"), "x", 1)) // the reset of x is due
		look := f.store.Check(&Check{Step: f.stepOf("c"), FeatureID: "m", Needs: needsOf("m", 1)}, f.items)
		if usage := f.outcome(f.run(look)[0]).Pool.Sum().Usage; replies[0].Replayed || usage != 3 {
			t.Errorf("replayed: %t, usage %d", replies[0].Replayed, usage)
		}
	})
}

// TestWhatAnEntityConsumesQuicklyCanBeGivenBackToIt: it is not among those who have something to give back to until then.
func TestWhatAnEntityConsumesQuicklyCanBeGivenBackToIt(t *testing.T) {
	f, _ := newCrowd(t, 110)
	f.eachTakes(20, 1)
	f.run(f.check(-1, true)) // makes the queue
	ofEntity := func(id string) Call {
		step := f.step()
		step.Entity = id
		return f.deduct(step, "m", 1)
	}
	f.run(ofEntity("e105"))
	if got := f.outcome(f.run(ofEntity("e105"))[0]); got.Pool.Sum().Usage != 2 {
		t.Fatalf("usage %d", got.Pool.Sum().Usage)
	}
	for range 2 {
		got := f.outcome(f.run(f.check(-1, true))[0])
		if len(got.Deductions) != 1 || got.Deductions[0].Balance.Entity != "e105" {
			t.Errorf("given back %+v", got.Deductions)
		}
	}
}

// TestSumsThatAreMissingOrTooSmallStopNobody: a key may have been restored from a backup.
func TestSumsThatAreMissingOrTooSmallStopNobody(t *testing.T) {
	for name, spoil := range map[string]func(v []any){
		"missing": func(v []any) { v[number("C", "shared")-1] = "" },
		"too small": func(v []any) {
			sums := v[number("C", "shared")-1].([]any)
			sums[1] = strings.Repeat("\x00", 11) + sums[1].(string)[11:]
		},
	} {
		f := newFixture(t)
		f.newTeam("acme")
		key := f.store.customerKey("acme")
		v := f.values(key)
		spoil(v)
		f.set(key, v)
		step := f.stepOf("acme")
		step.Entity = "e0"
		if got := f.outcome(f.run(f.deduct(step, "m", 1))[0]); got.Code != balance.Included || got.Amount != 1 {
			t.Errorf("%s: %v", name, got.Error)
		}
		look := f.store.Check(&Check{Step: f.stepOf("acme"), FeatureID: "m", Needs: needsOf("m", 1000)}, f.items)
		if got := f.outcome(f.run(look)[0]); got.Code.Allowed() {
			t.Errorf("%s: a check of 1000 is %s", name, got.Code)
		}
	}
}

// TestPlacesInPackedPoolsAreThoseOfTheirFormats: flags, first, amount_size and sums_size are counted by hand.
func TestPlacesInPackedPoolsAreThoseOfTheirFormats(t *testing.T) {
	text := comment.ReplaceAllString(mustRead("scripts/lib/layout.lua"), "") + `
local out = {}
for _, size in ipairs({ formats.small, formats.large }) do
  out[#out + 1] = #struct_pack(size.head, 0, 0, 0, 0) + 1 - size.first
  out[#out + 1] = #struct_pack(size.amount, 0) - size.amount_size
  out[#out + 1] = #struct_pack(size.each, 0, 0, 0, 0, 0, 0, '') - 3 - size.flags
end
out[#out + 1] = #struct_pack(formats.sums, 0, 0, 0, 0, 0) - formats.sums_size
return out`
	libraries := comment.ReplaceAllString(mustRead("scripts/lib/struct.lua"), "")
	differences, err := servertest.Redis(t).Eval(t.Context(), writeOut(libraries+text), nil).Int64Slice()
	if err != nil {
		t.Fatal(err)
	}
	for i, difference := range differences {
		if difference != 0 {
			t.Errorf("place %d is off by %d", i, difference)
		}
	}
	if 2*number("LIMIT", "quick") > number("LIMIT", "shown") {
		t.Error("a quick check may have to show more balances than are shown")
	}
}

// TestStepsOfACallSeeWhatQuickOnesTook: what a step before had unpacked is not what a quick check left.
func TestStepsOfACallSeeWhatQuickOnesTook(t *testing.T) {
	onBothLedgers(t, func(t *testing.T, f *fixture) {
		f.newTeam("acme")
		ofEntity := func(units int64) Call {
			step := f.stepOf("acme")
			step.Entity = "e0"
			return f.deduct(step, "m", units)
		}
		ofAll := func(units int64) Call { return f.deduct(f.stepOf("acme"), "m", units) }
		var left []int64
		for _, reply := range f.deliver(ofEntity(2), ofEntity(-1), ofEntity(3), ofEntity(-1), ofAll(5), ofEntity(4), ofAll(-1), ofEntity(7), ofAll(0)) {
			left = append(left, f.outcome(reply).Pool.Remaining())
		}
		// Each of three entities has 30; what all draw from first is the first.
		if want := []int64{28, 29, 26, 27, 82, 18, 79, 12, 72}; !slices.Equal(left, want) {
			t.Errorf("left %v, want %v", left, want)
		}
		left = nil
		own := func(units int64) Call { return f.deduct(f.stepOf("acme"), "x", units) }
		for _, reply := range f.deliver(own(2), own(-1), own(3), own(-1), own(4), own(0)) {
			left = append(left, f.outcome(reply).Pool.Remaining())
		}
		if want := []int64{35, 36, 33, 34, 30, 30}; !slices.Equal(left, want) {
			t.Errorf("left %v, want %v", left, want)
		}
	})
}
