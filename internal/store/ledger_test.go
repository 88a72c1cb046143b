package store

import (
	"fmt"
	"testing"
	"time"

	"tollgate/internal/balance"
)

// work is what a worker asks for in one batch, something of every kind.
func (f *fixture) work() []Call {
	return []Call{
		f.check(2, true),
		f.check(100, true), // denied
		f.store.Track(f.step(), f.items, "cap", [][]Need{{{FeatureID: "m", Units: 1}}}),
		f.grant(5),
		f.check(1, true),
		f.store.BalanceUpdate(f.step(), f.items, "m", "", FieldAdd, -1),
	}
}

// leftOfWork is what is left of the fixture's 10 behind work.
const leftOfWork = 10 - 2 - 1 + 5 - 1 - 1

// mustBeOver delivers calls that were decided and committed: each is stale, or answered as it was first.
func (f *fixture) mustBeOver(what string, calls []Call, first []Reply) {
	f.Helper()
	before := f.left()
	for i, reply := range f.deliver(calls...) {
		if !reply.Stale && (!reply.Replayed || string(reply.outcome) != string(first[i].outcome)) {
			f.Errorf("%s, call %d: neither stale nor answered as before: %q, then %q (%v)", what, i, first[i].outcome, reply.outcome, reply.Err)
		}
	}
	if left := f.left(); left != before {
		f.Errorf("%s: %d left, then %d", what, before, left)
	}
}

func (f *fixture) mustReplay(what string, calls []Call, first []Reply) {
	f.Helper()
	for i, reply := range f.deliver(calls...) {
		if !reply.Replayed || string(reply.outcome) != string(first[i].outcome) {
			f.Errorf("%s, call %d: answered %q, then %q (%v)", what, i, first[i].outcome, reply.outcome, reply.Err)
		}
	}
}

func (f *fixture) forget(customers ...string) {
	f.Helper()
	if err := f.store.Forget(f.Context(), source, f.offset+1, customers); err != nil {
		f.Fatal(err)
	}
}

// TestAFrozenWorkerDecidesNothingAgain is fault 1: a worker whose reply was lost asked again when its
// successor had answered, committed and had the outcomes forgotten, and everything was decided once more.
func TestAFrozenWorkerDecidesNothingAgain(t *testing.T) {
	for _, c := range []struct {
		name string
		// story is what happens until the worker wakes; it returns the first answers.
		story func(f *fixture, frozen []Call) []Reply
	}{
		{"its reply was lost, and its successor got the outcomes", func(f *fixture, frozen []Call) []Reply {
			first := f.deliver(frozen...)
			f.mustReplay("the successor", frozen, first)
			f.forget("c")
			return first
		}},
		{"it had sent nothing", func(f *fixture, frozen []Call) []Reply {
			first := f.deliver(frozen...)
			f.forget("c")
			return first
		}},
		{"its successor had decided a part", func(f *fixture, frozen []Call) []Reply {
			first := f.deliver(frozen[:2]...)
			first = append(first[:2:2], f.deliver(frozen...)[2:]...)
			f.mustReplay("the successor", frozen, first)
			f.forget("c")
			return first
		}},
		{"what is committed is known from the customer's next record only", func(f *fixture, frozen []Call) []Reply {
			first := f.deliver(frozen...)
			next := f.check(1, true)
			next.committed = next.step.Origin.Offset
			f.run(next)
			return first
		}},
		{"what is committed is known from a stranger's record only", func(f *fixture, frozen []Call) []Reply {
			first := f.deliver(frozen...)
			next := f.deduct(f.stepOf("stranger"), "m", 1)
			next.committed = next.step.Origin.Offset
			f.run(next)
			return first
		}},
		{"the outcomes were forgotten twice, and not up to as far the second time", func(f *fixture, frozen []Call) []Reply {
			first := f.deliver(frozen...)
			f.forget("c")
			if err := f.store.Forget(f.Context(), source, 1, []string{"c"}); err != nil {
				f.Fatal(err)
			}
			return first
		}},
		{"the customer was deleted and made again", func(f *fixture, frozen []Call) []Reply {
			first := f.deliver(frozen...)
			f.command(f.store.CustomerDelete(f.step(), f.items))
			f.forget("c")
			f.command(f.store.CustomerPut(f.step(), f.items, "", "", ""))
			f.command(f.grant(10))
			return first
		}},
		{"by records of another topic, whose offsets are lower", func(f *fixture, frozen []Call) []Reply {
			first := f.deliver(frozen...)
			f.forget("c")
			step := f.step()
			step.Customer, step.Origin = "c", Origin{Source: "other", Offset: 0, TimestampMs: 5}
			f.command(f.store.CustomerDelete(step, f.items))
			step.Origin.Offset = 1
			f.command(f.store.CustomerPut(step, f.items, "", "", ""))
			f.command(f.grant(10))
			return first
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			onBothLedgers(t, func(t *testing.T, f *fixture) {
				frozen := f.work()
				first := c.story(f, frozen)
				for range 3 {
					f.mustBeOver(c.name, frozen, first)
				}
			})
		})
	}
}

// TestWhatFailedInTheMiddleIsNotDecidedBehindTheRest is fault 2: the record was decided when it was
// redelivered, and made every later one look new.
func TestWhatFailedInTheMiddleIsNotDecidedBehindTheRest(t *testing.T) {
	ofX := func(f *fixture, change func(step *Step)) Call {
		step := f.step()
		change(&step)
		return f.deduct(step, "x", 1)
	}
	onEntity := func(f *fixture) Call { return ofX(f, func(step *Step) { step.Entity = "e1" }) }
	entity := func(f *fixture) string { return entityKey(f.store.customerKey("c"), "e1") }
	for _, c := range []struct {
		name string
		harm harm
		key  func(f *fixture) string
		call func(f *fixture) Call
	}{
		{"an entity that is unreadable", unreadable, entity, onEntity},
		{"an entity whose key is truncated", truncated, entity, onEntity},
		{"an entity of another version", otherFormat, entity, onEntity},
		{"an entity's key of another type", otherType, entity, onEntity},
		{"an entity's pools", spoiledPools, entity, func(f *fixture) Call {
			call := onEntity(f)
			return f.deduct(call.step, "m", 1)
		}},
		{"an idempotency key of another type", otherType,
			func(f *fixture) string { return idempotencyKey(f.store.customerKey("c"), "k") },
			func(f *fixture) Call { return ofX(f, func(step *Step) { *step = withKey(*step, "k") }) }},
		{"an idempotency key that is unreadable", unreadable,
			func(f *fixture) string { return idempotencyKey(f.store.customerKey("c"), "k") },
			func(f *fixture) Call { return ofX(f, func(step *Step) { *step = withKey(*step, "k") }) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			onBothLedgers(t, func(t *testing.T, f *fixture) {
				f.newTeam("c")
				leftOf := func(feature string) int64 {
					step := f.stepOf("c")
					step.Remember = false
					call := f.store.Check(&Check{Step: step, FeatureID: feature, Needs: []Need{{FeatureID: feature}}}, f.items)
					return f.outcome(f.run(call)[0]).Pool.Remaining()
				}
				x := leftOf("x")
				undo := c.harm.to(f, c.key(f))
				calls := []Call{c.call(f), f.deduct(f.stepOf("c"), "x", 2), f.deduct(f.stepOf("c"), "x", 3)}
				first := f.deliver(calls...)
				if !f.failed(&calls[0], first[0]) {
					t.Fatal("the first did not fail")
				}
				if left := leftOf("x"); left != x-5 {
					t.Fatalf("%d left, want %d", left, x-5)
				}
				for _, when := range []string{"before it is mended", "when it is mended", "once more"} {
					if when == "when it is mended" {
						undo()
					}
					replies := f.deliver(calls...)
					if !f.failed(&calls[0], replies[0]) {
						t.Errorf("%s the first is decided, behind the others", when)
					}
					f.mustReplay(when, calls[1:], first[1:])
				}
				if left := leftOf("x"); left != x-5 {
					t.Errorf("mended, %d left, want %d", left, x-5)
				}
			})
		})
	}
}

// TestRecordsDecidedOutOfOrderAreNotDeductedAgain is fault 2 once more, however it may come to be.
func TestRecordsDecidedOutOfOrderAreNotDeductedAgain(t *testing.T) {
	onBothLedgers(t, func(t *testing.T, f *fixture) {
		late, calls := f.check(1, true), []Call{f.check(2, true), f.check(3, true)}
		first := f.deliver(calls[0])
		first = append(first, f.deliver(calls[1])...)
		for range 3 {
			if reply := f.deliver(late)[0]; !f.failed(&late, reply) {
				t.Errorf("it was decided: %q", reply.outcome)
			}
			f.mustReplay("one by one", calls, first)
			f.deliver(late, calls[0], calls[1])
		}
		if left := f.left(); left != 5 {
			t.Errorf("%d left, want 5", left)
		}
	})
}

func TestWorkIsDecidedOnceHoweverItIsCut(t *testing.T) {
	onBothLedgers(t, func(t *testing.T, f *fixture) {
		calls := f.work()
		var first []Reply
		for i := range calls {
			first = append(first, f.deliver(calls[:i+1]...)[i])
			f.mustReplay(fmt.Sprint("up to ", i), calls[:i+1], first)
		}
		for i := range calls {
			f.mustReplay(fmt.Sprint("from ", i), calls[i:], first[i:])
		}
		if left := f.left(); left != leftOfWork {
			t.Errorf("%d left, want %d", left, leftOfWork)
		}
	})
}

// TestAnOutcomeWhoseWriteDidNotComeToPassIsNotRepeated: the log is written before the customers, and what
// then keeps them from being written leaves outcomes in it that never were.
func TestAnOutcomeWhoseWriteDidNotComeToPassIsNotRepeated(t *testing.T) {
	onBothLedgers(t, func(t *testing.T, f *fixture) {
		const rounds = 32 // which of two outcomes is found is by chance
		for range rounds {
			one, two := f.check(0, true), f.check(0, true)
			key := f.store.customerKey("c")
			before := f.client.Get(t.Context(), key).Val()
			f.deliver(one, two)
			f.set(key, before)
			f.now = f.now.Add(time.Second)
			first := f.deliver(one) // a batch may end elsewhere the second time
			f.mustReplay("before the other is decided", []Call{one}, first)
			first = append(first, f.deliver(two)...)
			f.mustReplay("at last", []Call{one, two}, first)
		}
	})
}

// TestARecordInThePlaceOfOneThatATopicLostIsNew: an unclean election ends a topic's end, and others come
// to stand there. What was decided of those before is still known.
func TestARecordInThePlaceOfOneThatATopicLostIsNew(t *testing.T) {
	onBothLedgers(t, func(t *testing.T, f *fixture) {
		calls := []Call{f.check(1, true), f.check(2, true), f.check(3, true)}
		first := f.deliver(calls...)
		other := again(calls[1])
		other.step.Origin.TimestampMs++
		now := []Call{calls[0], other}
		second := f.deliver(now...)
		if !second[0].Replayed || second[1].Replayed || f.outcome(second[1]).Code != balance.Included {
			t.Errorf("got %+v", second)
		}
		for range 2 {
			f.mustReplay("redelivered", now, []Reply{first[0], second[1]})
			f.mustReplay("the one behind it", calls[2:], first[2:]) // the last that was decided does not move back
		}
		if left := f.left(); left != 10-1-2-3-2 {
			t.Errorf("%d left, want 2", left)
		}
	})
}
