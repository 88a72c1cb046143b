package store

import (
	"strings"
	"testing"

	"github.com/redis/go-redis/v9"

	"tollgate/internal/balance"
	"tollgate/internal/servertest"
)

// TestAnEntryOfACallThatWasNotWrittenCountsForNothing is a regression: the log is written before the
// customers, so a call that Redis refuses in between leaves entries. Records that were decided otherwise
// since, in calls with other bounds, were then answered with them.
func TestAnEntryOfACallThatWasNotWrittenCountsForNothing(t *testing.T) {
	f := newFixture(t)
	user := servertest.Unique("user")
	allow := func(rules ...any) error {
		return f.client.Do(t.Context(), append([]any{"ACL", "SETUSER", user}, rules...)...).Err()
	}
	if allow("on", "nopass", "~*", "+@all") != nil {
		return // the embedded Redis has no users
	}
	client := redis.NewClient(&redis.Options{Addr: f.client.Options().Addr, Username: user, Password: "x", MaxRetries: -1})
	defer client.Close()
	refused, err := New(client, Options{Prefix: f.store.prefix})
	if err != nil {
		t.Fatal(err)
	}
	for range 20 { // which entry is found first is chance
		f.run(f.grant(10))
		var batch []Call
		for range 5 {
			batch = append(batch, f.check(1, true))
		}
		repeat := func(n int) (calls []Call) {
			for _, call := range batch[:n] {
				calls = append(calls, again(call))
			}
			return calls
		}
		if err := allow("-mset"); err != nil {
			t.Fatal(err)
		}
		if _, err := refused.Run(t.Context(), f.now, repeat(5)); err == nil {
			t.Fatal("not refused")
		}
		other := f.check(f.left(), true)
		other.source, other.log = "other", f.store.logKey("other")
		f.run(other)
		first := f.run(repeat(3)...)
		for i, reply := range f.run(repeat(3)...) {
			if !reply.Replayed || string(reply.outcome) != string(first[i].outcome) {
				t.Fatalf("record %d was answered %+v and again %+v", i, f.outcome(first[i]), f.outcome(reply))
			}
		}
	}
}

// TestAnEntityIsGoneThoughItsKeyCouldNotBeRemoved is a regression: the key of a deleted entity is removed behind
// the write that decides; where that was refused the entity was found again.
func TestAnEntityIsGoneThoughItsKeyCouldNotBeRemoved(t *testing.T) {
	f, _ := newCrowd(t, 3)
	user := servertest.Unique("user")
	allow := func(rules ...any) error {
		return f.client.Do(t.Context(), append([]any{"ACL", "SETUSER", user}, rules...)...).Err()
	}
	if allow("on", "nopass", "~*", "+@all", "-unlink") != nil {
		return // the embedded Redis has no users
	}
	client := redis.NewClient(&redis.Options{Addr: f.client.Options().Addr, Username: user, Password: "x", MaxRetries: -1})
	defer client.Close()
	refused, err := New(client, Options{Prefix: f.store.prefix})
	if err != nil {
		t.Fatal(err)
	}
	step := f.step()
	step.Entity = "e1"
	remove := f.store.EntityDelete(step, f.items, "", nil)
	if _, err := refused.Run(t.Context(), f.now, []Call{again(remove)}); err == nil {
		t.Fatal("not refused")
	}
	f.run(again(remove))
	step = f.step()
	step.Entity = "e1"
	check := &Check{Step: step, FeatureID: "m", Needs: []Need{{FeatureID: "m", Units: 1}}, Deduct: true}
	if got := f.outcome(f.run(f.store.Check(check, f.items))[0]); got.Code != balance.EntityNotFound {
		t.Errorf("got %+v", got)
	}
}

// TestACustomerMadeAgainBehindAReplayHasNoEnd is a regression: the end that is given to what is left of a customer
// was given to the one made again in the same call.
func TestACustomerMadeAgainBehindAReplayHasNoEnd(t *testing.T) {
	f := newFixture(t)
	remove := f.store.CustomerDelete(f.step(), f.items)
	f.run(remove)
	f.run(again(remove), f.store.CustomerPut(f.step(), f.items, "", "", ""))
	if ttl := f.client.PTTL(t.Context(), f.store.customerKey("c")).Val(); ttl >= 0 {
		t.Errorf("the customer ends in %v", ttl)
	}
}

// TestACommittedRecordIsStaleThoughNothingCouldBeForgotten is a regression: the floor was raised only with the
// removal of entries, but the mark of a customer that did not exist was removed.
func TestACommittedRecordIsStaleThoughNothingCouldBeForgotten(t *testing.T) {
	f := newFixture(t)
	step := f.step()
	step.Customer = "stranger"
	stranger := f.store.Check(&Check{Step: step, FeatureID: "m", Needs: []Need{{FeatureID: "m", Units: 1}}, Deduct: true}, f.items)
	f.run(stranger, f.check(1, true), f.check(1, true))
	if err := f.store.Forget(t.Context(), source, step.Origin.Offset+1, []string{"stranger"}); err != nil {
		t.Fatal(err)
	}
	put := f.step()
	put.Customer = "stranger"
	f.run(f.store.CustomerPut(put, f.items, "", "", ""))
	if reply := f.run(again(stranger))[0]; !reply.Stale {
		t.Errorf("got %+v: %+v", reply, f.outcome(reply))
	}
}

// TestUsageOfSeveralFeaturesIsTakenOnce is a regression: a step that asked to be sent again, to look for entities to
// draw from, kept what it had taken of the features before.
func TestUsageOfSeveralFeaturesIsTakenOnce(t *testing.T) {
	f, _ := newCrowd(t, 350)
	f.run(f.store.BalanceGrant(f.step(), f.items, Grant{FeatureID: "seats", BalanceID: "more", Units: 100}))
	before := f.left()
	needs := [][]Need{{{FeatureID: "seats", Units: 1}}, {{FeatureID: "m", Units: before}}}
	outcome, err := ReadCommandOutcome(f.run(f.store.Track(f.step(), f.items, "reject", needs))[0])
	if err != nil || outcome.Error != nil || len(outcome.Events) != 2 {
		t.Fatalf("%+v, %v", outcome, err)
	}
	check := &Check{Step: f.step(), FeatureID: "seats", Needs: []Need{{FeatureID: "seats", Units: 0}}}
	check.Remember = false
	pool := f.outcome(f.run(f.store.Check(check, f.items))[0]).Pool
	if usage := pool.Sum().Usage; usage != 351 || f.left() != 0 {
		t.Errorf("%d seats are used, want 351; %d of m left", usage, f.left())
	}
}

// TestALongRefusalIsReadAsAWhole is a regression: its length was one byte.
func TestALongRefusalIsReadAsAWhole(t *testing.T) {
	f := newFixture(t)
	for _, length := range []int{10, 255, 256, 5000} {
		step := f.step()
		step.Refusal = &balance.Error{Code: balance.InvalidRequest, Message: strings.Repeat("x", length)}
		call := f.store.Check(&Check{Step: step, FeatureID: "m", Needs: []Need{{FeatureID: "m", Units: 1}}, Deduct: true}, f.items)
		for range 2 {
			if got := f.outcome(f.run(again(call))[0]); got.Error == nil || got.Error.Message != step.Refusal.Message {
				t.Errorf("of %d bytes came %+v", length, got.Error)
			}
		}
	}
}
