package store

import (
	"fmt"
	"reflect"
	"strings"
	"testing"
)

// strangersAsk has customers that do not exist ask for something of every kind.
func (f *fixture) strangersAsk() (ids []string, calls []Call) {
	f.items = NewItems(teams)
	for kind := range f.commandsOf("") {
		if kind == "customer.put" {
			continue
		}
		id := "stranger-" + kind
		ids = append(ids, id)
		calls = append(calls, f.commandsOf(id)[kind])
	}
	return ids, calls
}

// endless are the keys of strangers without an end, and how many have one.
func (f *fixture) endless() (endless []string, ending int) {
	f.Helper()
	keys, err := f.client.Keys(f.Context(), f.store.prefix+"{stranger*").Result()
	if err != nil {
		f.Fatal(err)
	}
	for _, key := range keys {
		if end := f.client.PTTL(f.Context(), key).Val(); end <= 0 {
			endless = append(endless, key)
		} else {
			ending++
		}
	}
	return endless, ending
}

// TestStrangersLeaveNoKeyForGood is fault 9.
func TestStrangersLeaveNoKeyForGood(t *testing.T) {
	onBothLedgers(t, func(t *testing.T, f *fixture) {
		ids, calls := f.strangersAsk()
		first := f.deliver(calls...)
		for i := range calls {
			if failure := f.errorOf(&calls[i], first[i]); failure == nil || failure.Code != "customer_not_found" {
				t.Errorf("%s: %v", calls[i].kind, failure)
			}
		}
		for _, when := range []string{"at first", "redelivered"} {
			if endless, _ := f.endless(); len(endless) > 0 {
				t.Errorf("%s, for good: %v", when, endless)
			}
			f.mustReplay(when, calls, first)
		}
		f.forget(ids...)
		endless, ending := f.endless()
		if len(endless) > 0 {
			t.Errorf("forgotten, for good: %v", endless)
		}
		if !f.store.cluster && ending > 0 {
			t.Errorf("%d keys are left for a day when all is committed", ending)
		}
		f.mustBeOver("committed", calls, first)
		if endless, _ := f.endless(); len(endless) > 0 {
			t.Errorf("behind that, for good: %v", endless)
		}
	})
}

// TestADeletedCustomerLeavesNoKeyForGood: what is left of one is a stranger's.
func TestADeletedCustomerLeavesNoKeyForGood(t *testing.T) {
	onBothLedgers(t, func(t *testing.T, f *fixture) {
		const id = "stranger"
		f.newTeam(id)
		key := withKey(f.stepOf(id), "k")
		f.deliver(f.deduct(key, "x", 1), f.store.CustomerPut(withKey(f.stepOf(id), "another"), f.items, "b", "", ""))
		deletion := f.store.CustomerDelete(withKey(f.stepOf(id), "of the deletion"), f.items)
		first := f.deliver(deletion)
		f.mustReplay("redelivered", []Call{deletion}, first)
		f.deliver(f.deduct(f.stepOf(id), "x", 1))
		if endless, _ := f.endless(); len(endless) > 0 {
			t.Errorf("for good: %v", endless)
		}
		f.forget(id)
		keys, err := f.client.Keys(t.Context(), f.store.prefix+"*").Result()
		if err != nil {
			t.Fatal(err)
		}
		for _, k := range keys {
			if strings.Contains(k, ":e:") || strings.Contains(k, ":d:") || strings.HasSuffix(k, ":p") {
				t.Errorf("%s is left of a customer that was deleted", k)
			}
		}
	})
}

// TestManyStrangersAreForgotten: more than one call of the script can take.
func TestManyStrangersAreForgotten(t *testing.T) {
	f := newFixture(t)
	const n = 3*customersAtOnce + 7
	var ids []string
	var calls []Call
	for i := range n {
		ids = append(ids, fmt.Sprint("stranger-", i))
		calls = append(calls, f.deduct(f.stepOf(ids[i]), "m", 1))
	}
	f.run(calls...)
	f.forget(append(ids, "c")...)
	if endless, ending := f.endless(); len(endless)+ending > 0 {
		t.Errorf("%d keys are left", len(endless)+ending)
	}
	if left := f.left(); left != 10 {
		t.Errorf("%d left of a customer that exists, want 10", left)
	}
}

// TestWhatStrangersLeftEndsEvenIfItsEndCouldNotBeSetAtFirst is faults 3 and 9: the end is set behind the
// write.
func TestWhatStrangersLeftEndsEvenIfItsEndCouldNotBeSetAtFirst(t *testing.T) {
	onBothLedgers(t, func(t *testing.T, f *fixture) {
		u := f.newUser()
		if u == nil {
			return
		}
		ids, calls := f.strangersAsk()
		u.allow("-pexpire")
		for _, call := range calls {
			_ = f.tries(u.store, call)
		}
		u.allow("+pexpire")
		f.deliver(calls...)
		if endless, ending := f.endless(); len(endless) > 0 || ending != len(ids) {
			t.Errorf("%d keys have an end, these have none: %v", ending, endless)
		}
	})
}

// TestACustomerDeletedAndMadeAgainInOneCallIsTheNewOne: what is removed behind the steps is not what the
// last of them wrote.
func TestACustomerDeletedAndMadeAgainInOneCallIsTheNewOne(t *testing.T) {
	onBothLedgers(t, func(t *testing.T, f *fixture) {
		const id, other = "acme", "other"
		f.newTeam(id)
		begin := func(id string) []Call {
			calls := []Call{f.store.CustomerPut(f.stepOf(id), f.items, "new", "", ""), f.attach(id, "team"), f.newEntity(id, "e1")}
			step := f.stepOf(id)
			step.Entity = "e1"
			return append(calls, f.store.Track(step, f.items, "cap", [][]Need{{{FeatureID: "m", Units: 3}}}))
		}
		calls := append([]Call{f.store.CustomerDelete(f.stepOf(id), f.items)}, begin(id)...)
		for i, reply := range f.deliver(calls...) {
			if failure := f.errorOf(&calls[i], reply); failure != nil {
				t.Fatal(calls[i].kind, failure)
			}
		}
		f.deliver(begin(other)...)
		if a, b := f.profileOf(id), f.profileOf(other); !reflect.DeepEqual(a, b) {
			t.Errorf("got %+v\nwant %+v", a, b)
		}
	})
}
