package engine

import (
	"context"
	"testing"
	"time"

	"github.com/segmentio/kafka-go"

	"tollgate/internal/balance"
	"tollgate/internal/servertest"
	"tollgate/internal/store"
)

type countSwept struct{ swept, failed int }

func (c *countSwept) Swept(n int)  { c.swept += n }
func (c *countSwept) SweepFailed() { c.failed++ }

// A sweeper whose clock is ahead of that of who decides: the command finds the lock held, and puts it back to its expiry, which
// the sweeper believes to be past: it sends another every half second.
func TestASweeperAheadOfWhoDecidesSendsNowAndThen(t *testing.T) {
	st, err := store.New(servertest.Redis(t), store.Options{Prefix: servertest.Unique("sweep") + ":"})
	if err != nil {
		t.Fatal(err)
	}
	m := balance.Feature{ID: "m", Type: balance.Metered, Consumable: true}
	items := store.NewItems(balance.NewCatalog("v", []balance.Feature{m}, nil))
	offset := int64(0)
	step := func() store.Step {
		offset++
		return store.Step{Customer: "c", Origin: store.Origin{Source: "s", Offset: offset, TimestampMs: 5}, Remember: true}
	}
	now := time.UnixMilli(1_790_000_000_000)
	const apart = 30 * time.Second
	expires := now.Add(apart).UnixMilli()
	run := func(call store.Call) store.Reply {
		replies, err := st.Run(t.Context(), now, []store.Call{call})
		if err != nil || replies[0].Err != nil {
			t.Fatal(err, replies[0].Err)
		}
		return replies[0]
	}
	run(st.CustomerPut(step(), items, "", "", ""))
	run(st.BalanceGrant(step(), items, store.Grant{FeatureID: "m", BalanceID: "g", Units: 10}))
	run(st.Check(&store.Check{Step: step(), FeatureID: "m", Needs: []store.Need{{FeatureID: "m", Units: 3}}, Deduct: true, Lock: &store.LockRequest{
		ID: "l", ExpiresMs: expires, OverageBehavior: "reject",
	}}, items))
	observer := &countSwept{}
	ref := store.LockRef{CustomerID: "c", LockID: "l"}
	s := &Sweeper{
		Store: st, Commands: "commands", Observer: observer, Logger: servertest.Silent(), Clock: func() time.Time { return now.Add(apart) },
		sent: map[store.LockRef]sweep{},
		Send: func(ctx context.Context, records []kafka.Message) error { // it is decided at once
			outcome, err := store.ReadCommandOutcome(run(st.LockExpire(step(), items, "l")))
			if err != nil || outcome.Error != nil {
				t.Fatal(err, outcome.Error)
			}
			return st.NoteLocks(ctx, map[store.LockRef]balance.Lock{ref: outcome.Lock.Lock})
		},
	}
	for end := now.Add(apart + time.Second); now.Before(end); now = now.Add(sweepEvery) {
		if _, err := s.once(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if most := int((apart + time.Second) / sweepLease); observer.swept > most {
		t.Errorf("%d commands for one lock, the clocks are %v apart; want %d at the most", observer.swept, apart, most)
	}
}
