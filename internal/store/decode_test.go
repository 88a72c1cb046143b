package store

import (
	"errors"
	"testing"
	"time"
)

// realOutcomes are outcomes of every kind, as the scripts write them.
func realOutcomes(t testing.TB) (all []Reply) {
	f := newFixture(t)
	const id = "acme"
	keep := func(calls ...Call) {
		for i, reply := range f.deliver(calls...) {
			if reply.Err != nil {
				t.Fatal(calls[i].kind, reply.Err)
			}
			all = append(all, reply)
		}
	}
	f.newTeam(id)
	f.now = f.now.Add(70 * 24 * time.Hour) // for rollovers
	for _, check := range []Check{
		{FeatureID: "x", Needs: []Need{{FeatureID: "x", Units: 1 << 40}, {FeatureID: "credits", Overflows: true}}, Preview: true},
		{FeatureID: "flag", Flag: true},
		{FeatureID: "typo", Flag: true, Preview: true},
		{FeatureID: "credits", Needs: []Need{{FeatureID: "credits", Units: 7001}}, Deduct: true},
		{FeatureID: "credits", Needs: []Need{{FeatureID: "credits", Units: -3}}, Deduct: true},
	} {
		check.Step = f.stepOf(id)
		keep(f.store.Check(&check, f.items))
	}
	keep(f.deduct(f.stepOf("stranger"), "m", 1))
	ofEntity := f.stepOf(id)
	ofEntity.Entity = "e0"
	keep(f.store.BalanceGrant(ofEntity, f.items, Grant{FeatureID: "x", BalanceID: "beside", Units: 50}))
	for _, deduct := range []bool{false, true} { // decided quickly, of an entity beside its customer
		ofEntity = f.stepOf(id)
		ofEntity.Entity = "e0"
		keep(f.store.Check(&Check{Step: ofEntity, FeatureID: "x", Needs: []Need{{FeatureID: "x", Units: 1}}, Deduct: deduct}, f.items))
	}
	for range 2 {
		keep(f.deduct(withKey(f.stepOf(id), "k"), "x", 2))
	}
	keep(f.store.CustomerGet(f.stepOf(id), f.items))
	for _, kind := range []string{
		"a check of all", "usage.track", "balance.update", "balance.grant", "entity.create", "entity.delete", "plan.attach", "plan.detach", "customer.put", "customer.delete",
	} {
		keep(f.commandsOf(id)[kind])
	}
	f.multiply(f.store.customerKey("c"), "m", int(number("LIMIT", "shown"))+1)
	keep(f.check(1, true), f.store.CustomerGet(f.step(), f.items))
	return all
}

// readsOrRefuses fails the test if an outcome is neither read nor refused as malformed.
func readsOrRefuses(t *testing.T, outcome []byte) {
	t.Helper()
	if check, err := ReadCheckOutcome(Reply{outcome: outcome}); (err == nil) == (check == nil) || err != nil && !errors.Is(err, errOutcome) {
		t.Fatalf("%q: %+v, %v", outcome, check, err)
	}
	command, err := ReadCommandOutcome(Reply{outcome: outcome})
	if command == nil && err == nil || err != nil && !errors.Is(err, errOutcome) {
		t.Fatalf("%q: %+v, %v", outcome, command, err)
	}
}

// TestAnOutcomeThatIsCutOrHarmedIsReadOrRefused: what stands in Redis may be anything.
func TestAnOutcomeThatIsCutOrHarmedIsReadOrRefused(t *testing.T) {
	for _, reply := range realOutcomes(t) {
		_, asCheck := ReadCheckOutcome(reply)
		_, asCommand := ReadCommandOutcome(reply)
		if asCheck != nil && asCommand != nil {
			t.Fatalf("%q: %v, %v", reply.outcome, asCheck, asCommand)
		}
		const most = 500 // bytes of an outcome: what comes behind is more of the same
		outcome := reply.outcome
		for n := range min(len(outcome), most) {
			cut := Reply{outcome: outcome[:n]}
			_, checkErr := ReadCheckOutcome(cut)
			_, commandErr := ReadCommandOutcome(cut)
			if checkErr == nil || commandErr == nil {
				t.Fatalf("the first %d bytes of %q are read", n, outcome)
			}
			for bit := range 8 {
				flipped := append([]byte(nil), outcome...)
				flipped[n] ^= 1 << bit
				readsOrRefuses(t, flipped)
			}
		}
	}
}
