package balance

import (
	"cmp"
	"slices"
	"strconv"
)

// Kind says which part of a balance a deduction came from.
type Kind string

// The kinds, in the order of their numbers in the store.
const (
	KindRollover  Kind = "rollover"
	KindIncluded  Kind = "included"
	KindPrepaid   Kind = "prepaid"
	KindOverage   Kind = "overage"
	KindUnlimited Kind = "unlimited"
)

// Kinds lists the kinds of a deduction; the place of one plus 1 is its number in
// the store.
var Kinds = []Kind{KindRollover, KindIncluded, KindPrepaid, KindOverage, KindUnlimited}

// RolloverRun is what lives on of earlier periods: N rollovers that expire one after the other.
type RolloverRun struct {
	Held, Each int64 // units that the first, and each of the others, held when the period began
	N          int64
	Taken      int64 // units consumed in this period, from the first rollover on
	ExpiresAt  int64 // Unix ms, when the first expires; 0: never
	StepMs     int64 // from one expiry to the next
}

// Remaining is what is left of the rollovers.
func (r *RolloverRun) Remaining() int64 { return r.Held + (r.N-1)*r.Each - r.Taken }

// RolledOver is what is left of one earlier period.
type RolledOver struct {
	Remaining int64 // units
	ExpiresAt int64 // Unix ms, 0: never
}

// Balance is one source of a feature for a customer. Amounts are units of
// 10^-precision of its feature, times Unix milliseconds, 0 for never.
//
// Invariant: every amount is at least 0, and
// Granted() + rolled in = Remaining() + Usage() - Over.
type Balance struct {
	PlanID         string // "" for a standalone grant
	ItemNumber     int    // of the plan's items of the feature, from 1
	GrantID        string // of a standalone grant
	Entity         string // that holds it, "" for the customer
	Shared         bool   // held by an entity, in the customer's pool too
	Interval       Interval
	IntervalCount  int
	ResetsAt       int64
	ExpiresAt      int64
	Unlimited      bool
	OverageAllowed bool
	MaxPurchase    int64 // Unbounded for none
	Included       int64
	Prepaid        int64
	IncludedLeft   int64
	PrepaidLeft    int64
	Over           int64
	FromRollovers  int64
	Held           int64 // of the usage, by locks that are not settled
	Rollovers      []RolloverRun
}

// ID is the balance's id: <plan>/<feature>, #n for the second and later items of
// the feature, @<entity> for an entity's; a grant's own id.
func (b *Balance) ID(featureID string) string {
	if b.PlanID == "" {
		return b.GrantID
	}
	id := b.PlanID + "/" + featureID
	if b.ItemNumber > 1 {
		id += "#" + strconv.Itoa(b.ItemNumber)
	}
	if b.Entity != "" {
		id += "@" + b.Entity
	}
	return id
}

// Granted is what was given for the period, bought units included.
func (b *Balance) Granted() int64 { return b.Included + b.Prepaid }

// Remaining is what is left, rollovers included.
func (b *Balance) Remaining() int64 {
	left := b.IncludedLeft + b.PrepaidLeft
	for i := range b.Rollovers {
		left += b.Rollovers[i].Remaining()
	}
	return left
}

// Usage is all that was consumed in the period.
func (b *Balance) Usage() int64 {
	return b.Included - b.IncludedLeft + b.Prepaid - b.PrepaidLeft + b.Over + b.FromRollovers
}

// Deduction is one line of what was taken off a pool.
type Deduction struct {
	Balance *Balance
	Amount  int64 // units of the pool; negative where it was given back
	Kind    Kind
}

// Draw is a pool that a check draws from, or would draw from, and what it takes there. Amounts are units of the pool's
// feature.
type Draw struct {
	Need       int64 // that was asked of the pool
	Pool       Pool  // as it is then; without balances: the customer has none
	Amount     int64 // that was deducted, or would be
	Deductions []Deduction
}

// IsEmpty says that nothing was deducted, nor would be.
func (d *Draw) IsEmpty() bool { return len(d.Deductions) == 0 }

// fromGrants is what of the amount comes from what was granted. The rest is overage, or of an unlimited balance.
func (d *Draw) fromGrants() int64 {
	taken := int64(0)
	for i := range d.Deductions {
		switch d.Deductions[i].Kind {
		case KindRollover, KindIncluded, KindPrepaid:
			taken += d.Deductions[i].Amount
		}
	}
	return taken
}

// RemainingAfter is what remains in the pool once the draw is taken. isTaken says that it was, and the pool is as it left it.
func (d *Draw) RemainingAfter(isTaken bool) int64 {
	if isTaken {
		return d.Pool.Remaining()
	}
	return d.Pool.Remaining() - d.fromGrants()
}

// Pool is what a check could draw from, in deduction order, after the decision.
type Pool struct {
	FeatureID string
	Balances  []Balance // the first of them
	// Totals are what all balances add up to, nil if Balances are all.
	Totals *Totals
	// Rolling are those of the others that have the rollovers which expire soonest.
	Rolling []Balance
}

// Totals are what the balances of a pool add up to. Amounts are units.
type Totals struct {
	Granted, Remaining, Usage int64
	Held                      int64
	Unlimited, OverageAllowed bool
	MaxPurchase               int64 // Unbounded where one of them has no bound, or none allows overage
	NextResetAt               int64 // Unix ms, 0: never
}

// Sum adds the balances of the pool up.
func (p *Pool) Sum() Totals {
	if p.Totals != nil {
		return *p.Totals
	}
	var t Totals
	bounded := true
	for i := range p.Balances {
		b := &p.Balances[i]
		t.Granted, t.Remaining, t.Usage = t.Granted+b.Granted(), t.Remaining+b.Remaining(), t.Usage+b.Usage()
		t.Held += b.Held
		t.Unlimited = t.Unlimited || b.Unlimited
		if b.OverageAllowed {
			t.OverageAllowed = true
			bounded = bounded && b.MaxPurchase != Unbounded
			t.MaxPurchase += b.MaxPurchase
		}
		if b.ResetsAt > 0 && (t.NextResetAt == 0 || b.ResetsAt < t.NextResetAt) {
			t.NextResetAt = b.ResetsAt
		}
	}
	if !bounded || !t.OverageAllowed {
		t.MaxPurchase = Unbounded
	}
	return t
}

// Remaining is what is left in the pool.
func (p *Pool) Remaining() int64 { return p.Sum().Remaining }

// LockState is what became of a lock.
type LockState string

// The states of a lock.
const (
	LockHeld       LockState = "held"
	LockConfirmed  LockState = "confirmed"
	LockReleased   LockState = "released"
	LockHasExpired LockState = "expired"
)

// LockStates lists the states.
var LockStates = []LockState{LockHeld, LockConfirmed, LockReleased, LockHasExpired}

// Lock is a reservation: an amount that was taken, and is not spent yet.
type Lock struct {
	ID        string
	FeatureID string // the one asked for
	Entity    string // "" for the customer
	Units     int64  // of the feature, that are held, or were until it was settled
	ExpiresMs int64
	State     LockState
}

// Forfeit is what of a lock could not go back to a pool, because where it came from is no more.
type Forfeit struct {
	FeatureID string // of the pool
	Units     int64  // of the pool
}

// Flag is a boolean feature that a customer or an entity has.
type Flag struct {
	FeatureID string
	PlanID    string
	Entity    string
	ExpiresAt int64 // Unix ms, 0: never
}

// PoolRollover is a rollover of one of a pool's balances.
type PoolRollover struct {
	Balance *Balance
	RolledOver
}

// Rollovers lists the pool's rollovers that hold something, at most so many, in the order in which they
// are used: the one that expires soonest first, at the same time in the order of their balances. more
// says that there are others.
func (p *Pool) Rollovers(most int) (all []PoolRollover, more bool) {
	for i := range len(p.Balances) + len(p.Rolling) {
		var b *Balance
		if i < len(p.Balances) {
			b = &p.Balances[i]
		} else {
			b = &p.Rolling[i-len(p.Balances)]
		}
		for j := range b.Rollovers {
			run := &b.Rollovers[j]
			taken, expires := run.Taken, run.ExpiresAt
			// No more than most of a run can be among the first.
			for n, listed := int64(0), 0; n < run.N; n++ {
				held := run.Each
				if n == 0 {
					held = run.Held
				}
				gone := min(held, taken)
				taken -= gone
				if held > gone {
					if listed > most {
						break
					}
					all = append(all, PoolRollover{b, RolledOver{held - gone, expires}})
					listed++
				}
				expires += run.StepMs
			}
		}
	}
	slices.SortStableFunc(all, func(a, b PoolRollover) int {
		switch {
		case a.ExpiresAt == b.ExpiresAt:
			return 0
		case a.ExpiresAt == 0:
			return 1
		case b.ExpiresAt == 0:
			return -1
		}
		return cmp.Compare(a.ExpiresAt, b.ExpiresAt)
	})
	if len(all) > most {
		return all[:most], true
	}
	return all, false
}
