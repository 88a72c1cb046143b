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

// RolledOver is what lives on of an earlier period.
type RolledOver struct {
	Held      int64 // units when the period began
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
	Rollovers      []RolledOver
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
	for _, r := range b.Rollovers {
		left += r.Remaining
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

// Pool is what a check could draw from, in deduction order, after the decision.
type Pool struct {
	FeatureID string
	Balances  []Balance
}

// Remaining is what is left in the pool.
func (p *Pool) Remaining() int64 {
	var left int64
	for i := range p.Balances {
		left += p.Balances[i].Remaining()
	}
	return left
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

// Rollovers lists the pool's rollovers that hold something, in the order in
// which they are used: the one that expires soonest first, at the same time in
// the order of their balances.
func (p *Pool) Rollovers() []PoolRollover {
	var all []PoolRollover
	for i := range p.Balances {
		for _, r := range p.Balances[i].Rollovers {
			if r.Remaining > 0 {
				all = append(all, PoolRollover{&p.Balances[i], r})
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
	return all
}
