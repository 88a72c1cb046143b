package store

import (
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
