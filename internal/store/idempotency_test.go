package store

import (
	"testing"
	"time"

	"tollgate/internal/balance"
)

// codeOf is what a reply says, "" for a command that was carried out.
func (f *fixture) codeOf(call *Call, reply Reply) balance.Code {
	f.Helper()
	if failure := f.errorOf(call, reply); failure != nil {
		return failure.Code
	}
	if call.script == checkScript {
		return f.outcome(reply).Code
	}
	return ""
}

// TestAnIdempotencyKeyBelongsToOneQuestion is fault 8: it answered any other question, too.
func TestAnIdempotencyKeyBelongsToOneQuestion(t *testing.T) {
	onBothLedgers(t, func(t *testing.T, f *fixture) {
		f.items = NewItems(teams)
		asked := func(question string) Step {
			step := withKey(f.step(), "k")
			step.Question = []byte(question)
			return step
		}
		first := f.deliver(f.deduct(asked("a"), "m", 4))[0]
		for _, c := range []struct {
			name string
			call Call
			want balance.Code
		}{
			{"the same question", f.deduct(asked("a"), "m", 4), balance.Included},
			{"another question", f.deduct(asked("b"), "m", 4), balance.IdempotencyConflict},
			{"another question of a feature that it has not", f.deduct(asked("c"), "x", 4), balance.IdempotencyConflict},
			{"another question in a command", f.store.BalanceGrant(asked("d"), f.items, Grant{FeatureID: "m", Units: 4}), balance.IdempotencyConflict},
			{"the same question once more", f.deduct(asked("a"), "m", 4), balance.Included},
		} {
			reply := f.deliver(c.call)[0]
			if code := f.codeOf(&c.call, reply); code != c.want {
				t.Errorf("%s: %s, want %s", c.name, code, c.want)
			}
			if c.want != balance.Included {
				continue
			}
			outcome := f.outcome(reply)
			if !outcome.Repeats || string(outcome.Memo) != "memo" || outcome.Amount != f.outcome(first).Amount {
				t.Errorf("%s: %+v", c.name, outcome)
			}
		}
		if left := f.left(); left != 6 {
			t.Errorf("%d left, want 6", left)
		}
	})
}

// TestAConflictIsKeptInMindLikeAnyOtherAnswer: a redelivered record gets its own answer, whatever became
// of the key.
func TestAConflictIsKeptInMindLikeAnyOtherAnswer(t *testing.T) {
	onBothLedgers(t, func(t *testing.T, f *fixture) {
		var calls []Call
		for _, question := range []string{"one", "another", "one"} {
			step := withKey(f.step(), "k")
			step.Question = []byte(question)
			calls = append(calls, f.deduct(step, "m", 1))
		}
		first := f.deliver(calls...)
		for i, want := range []balance.Code{balance.Included, balance.IdempotencyConflict, balance.Included} {
			if code := f.codeOf(&calls[i], first[i]); code != want {
				t.Errorf("call %d: %s, want %s", i, code, want)
			}
		}
		if err := f.client.Del(t.Context(), calls[0].answerKey).Err(); err != nil {
			t.Fatal(err)
		}
		f.mustReplay("without the key", calls, first)
		if left := f.left(); left != 9 {
			t.Errorf("%d left, want 9", left)
		}
	})
}

// TestADenialDoesNotUseAKeyUp, and neither does an error.
func TestADenialDoesNotUseAKeyUp(t *testing.T) {
	f := newFixture(t)
	for i, units := range []int64{11, 12, 4} {
		call := f.deduct(withKey(f.step(), "k"), "m", units)
		call.step.Question = []byte{byte(i)}
		want := balance.InsufficientFunds
		if units == 4 {
			want = balance.Included
		}
		if code := f.codeOf(&call, f.deliver(call)[0]); code != want {
			t.Errorf("%d: %s, want %s", units, code, want)
		}
	}
}

// TestDeletingACustomerEndsItsKeys is fault 8: the customer that had the id next was answered what the one
// before had been.
func TestDeletingACustomerEndsItsKeys(t *testing.T) {
	onBothLedgers(t, func(t *testing.T, f *fixture) {
		for range 3 {
			for _, call := range []Call{
				f.store.CustomerPut(withKey(f.step(), "of putting"), f.items, "name", "", ""),
				f.store.BalanceGrant(withKey(f.step(), "of granting"), f.items, Grant{FeatureID: "m", Units: 10}),
				f.deduct(withKey(f.step(), "of checking"), "m", 4),
				f.store.CustomerDelete(withKey(f.step(), "of deleting"), f.items),
			} {
				reply := f.deliver(call)[0]
				if code := f.codeOf(&call, reply); code != "" && code != balance.Included {
					t.Errorf("%s: %s", call.kind, code)
				}
				if _, repeats, _, err := open(reply); repeats || err != nil {
					t.Errorf("%s is answered as the customer before: %v", call.kind, err)
				}
			}
		}
		outcome, err := ReadCommandOutcome(f.deliver(f.store.CustomerGet(f.step(), f.items))[0])
		if err != nil || outcome.Error == nil || outcome.Error.Code != balance.CustomerNotFound {
			t.Errorf("deleted, %+v, %v", outcome, err)
		}
	})
}

// TestAKeyEndsWithItsWindow, whenever Redis drops what it holds of it.
func TestAKeyEndsWithItsWindow(t *testing.T) {
	f := newFixture(t)
	ask := func() *decided { return f.outcome(f.deliver(f.deduct(withKey(f.step(), "k"), "m", 1))[0]) }
	ask()
	f.now = f.now.Add(time.Hour - time.Millisecond)
	if !ask().Repeats {
		t.Error("within the window it is decided again")
	}
	f.now = f.now.Add(2 * time.Millisecond)
	if ask().Repeats {
		t.Error("behind the window it is answered as before")
	}
	if left := f.left(); left != 8 {
		t.Errorf("%d left, want 8", left)
	}
}
