package oracle

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"tollgate/internal/balance"
)

// grant is one source of a feature, as semantics.md speaks of it. Amounts are units.
type grant struct {
	feature   string
	plan      string // "" for a standalone grant
	number    int
	id        string // of a standalone grant
	rank      int    // 0 main plan, 1 add-on, 2 standalone
	entity    string // that holds it
	perEntity bool
	age       int

	anchor    time.Time
	reset     balance.Reset
	nextReset time.Time // zero: never
	expires   time.Time // zero: never
	unlimited bool
	overage   bool
	max       int64
	rule      *balance.Rollover
	times     int64
	added     int64

	included, usedIncluded int64
	prepaid, usedPrepaid   int64
	over                   int64 // beyond the grant; all of the usage where it is unlimited
	rollovers              []rollover
	fromRollovers          int64
	held                   int64 // of the usage, by locks
	// told is the rest of the usage: usage events tell of it, or none does, because balance.update, a plan that moved, or
	// a lock that could not give it back made it. The invariants ask for it; no answer does.
	told int64
}

type rollover struct {
	atStart, left int64 // atStart: when the period began
	expires       time.Time
}

func (g *grant) name() string {
	if g.plan == "" {
		return g.id
	}
	name := g.plan + "/" + g.feature
	if g.number > 1 {
		name += fmt.Sprintf("#%d", g.number)
	}
	if g.entity != "" {
		name += "@" + g.entity
	}
	return name
}

func (g *grant) left() int64 {
	return g.included - g.usedIncluded + g.prepaid - g.usedPrepaid
}

func (g *grant) remaining() int64 {
	remaining := g.left()
	for _, r := range g.rollovers {
		remaining += r.left
	}
	return remaining
}

func (g *grant) usage() int64 { return g.usedIncluded + g.usedPrepaid + g.over + g.fromRollovers }

func (g *grant) fits() bool {
	return g.usage() <= balance.MaxUnits && g.over <= balance.MaxUnits && g.included+g.prepaid <= balance.MaxUnits
}

func ended(at, now time.Time) bool { return !at.IsZero() && !at.After(now) }

func (g *grant) clone() *grant {
	c := *g
	c.rollovers = slices.Clone(g.rollovers)
	return &c
}

// raise grants more; what was consumed beyond the grant is covered first.
func (g *grant) raise(included, prepaid int64) {
	for _, part := range []struct {
		total, used *int64
		more        int64
	}{{&g.included, &g.usedIncluded, included}, {&g.prepaid, &g.usedPrepaid, prepaid}} {
		covered := min(g.over, part.more)
		*part.total += part.more
		*part.used += covered
		g.over -= covered
	}
}

// buy sets what was bought. Where it is less, what is left goes first; what was
// consumed stays consumed, if need be beyond the grant.
func (g *grant) buy(prepaid int64) {
	if prepaid >= g.prepaid {
		g.raise(0, prepaid-g.prepaid)
		return
	}
	less := g.prepaid - prepaid
	fromPrepaid := min(g.prepaid-g.usedPrepaid, less)
	fromIncluded := min(g.included-g.usedIncluded, less-fromPrepaid)
	g.prepaid = prepaid
	g.usedPrepaid -= less - fromPrepaid
	g.usedIncluded += fromIncluded
	g.over += less - fromPrepaid - fromIncluded
}

// pool is what a check may draw from, in deduction order.
type pool struct {
	feature string
	grants  []*grant
}

// poolOf gathers the live grants that the customer ("") or an entity can draw from.
func (c *customer) poolOf(feature, entity string) *pool {
	p := &pool{feature: feature}
	for _, g := range c.grants {
		own := g.entity == "" || g.entity == entity
		if g.feature == feature && (own || (entity == "" && g.perEntity)) {
			p.grants = append(p.grants, g)
		}
	}
	order := map[string]int{} // of the owners
	for i, e := range c.entities {
		order[e.id] = 1 + i
	}
	if entity != "" {
		order[entity] = -1
	}
	slices.SortStableFunc(p.grants, func(a, b *grant) int {
		return cmp.Or(cmp.Compare(order[a.entity], order[b.entity]), deductedBefore(a, b))
	})
	return p
}

// owned is the pool of what an owner holds itself: the customer ("") without its entities,
// an entity without the customer.
func (c *customer) owned(feature, owner string) *pool {
	p := &pool{feature: feature}
	for _, g := range c.grants {
		if g.feature == feature && g.entity == owner {
			p.grants = append(p.grants, g)
		}
	}
	slices.SortStableFunc(p.grants, deductedBefore)
	return p
}

func falseFirst(a, b bool) int {
	switch {
	case a == b:
		return 0
	case b:
		return -1
	}
	return 1
}

// deductedBefore is rules 2 to 8 of semantics, Deduction order.
func deductedBefore(a, b *grant) int {
	return cmp.Or(
		falseFirst(!a.unlimited, !b.unlimited),
		falseFirst(!hasPeriod(a.reset), !hasPeriod(b.reset)),
		cmp.Compare(averageLength(a.reset), averageLength(b.reset)),
		falseFirst(a.expires.IsZero(), b.expires.IsZero()),
		a.expires.Compare(b.expires),
		cmp.Compare(a.rank, b.rank),
		falseFirst(a.overage, b.overage),
		cmp.Compare(a.age, b.age),
	)
}

// pooledRollovers are the pool's rollovers in the order in which they are used.
func (p *pool) pooledRollovers() []usable {
	var all []usable
	for _, g := range p.grants {
		for i := range g.rollovers {
			all = append(all, usable{g, &g.rollovers[i]})
		}
	}
	slices.SortStableFunc(all, func(a, b usable) int {
		return cmp.Or(falseFirst(a.r.expires.IsZero(), b.r.expires.IsZero()), a.r.expires.Compare(b.r.expires))
	})
	return all
}

type usable struct {
	g *grant
	r *rollover
}

// remaining is what is left in the pool.
func (p *pool) remaining() int64 {
	remaining := int64(0)
	for _, g := range p.grants {
		remaining += g.remaining()
	}
	return remaining
}

// decide is semantics, Allowed or not.
func (p *pool) decide(need int64) balance.Code {
	var open int64
	remaining := p.remaining()
	overage, unbounded := false, false
	for _, g := range p.grants {
		if g.overage {
			overage = true
			unbounded = unbounded || g.max == balance.Unbounded
			open += max(0, g.max-g.over)
		}
	}
	unlimited := slices.ContainsFunc(p.grants, func(g *grant) bool { return g.unlimited })
	switch {
	case len(p.grants) == 0:
		return balance.NotEntitled
	case unlimited:
		return balance.Unlimited
	case need <= 0, remaining >= need:
		return balance.Included
	case !overage:
		return balance.InsufficientFunds
	case unbounded, remaining+open >= need:
		return balance.Overage
	}
	return balance.MaxPurchaseReached
}

type line struct {
	g         *grant
	amount    int64
	kind      balance.Kind
	rollovers []piece // that make up the amount where kind is rollover, and something was taken
}

// piece is what was taken of a rollover, which is told by its expiry.
type piece struct {
	expires time.Time
	amount  int64
}

// take applies need to the pool and returns the lines. Where an amount would not
// fit it changes nothing and returns false.
func (p *pool) take(need int64, force bool) ([]line, bool) {
	before := make([]*grant, len(p.grants))
	for i, g := range p.grants {
		before[i] = g.clone()
	}
	var lines []line
	if need >= 0 {
		lines = p.deduct(need, force)
	} else {
		lines = p.giveBack(-need)
	}
	for _, g := range p.grants {
		if !g.fits() {
			for i, g := range p.grants {
				*g = *before[i]
			}
			return nil, false
		}
	}
	return lines, true
}

// addLine adds a line. Rollovers of one balance, one after the other, make one line.
func addLine(lines []line, l line) []line {
	if n := len(lines); n > 0 && l.kind == balance.KindRollover && lines[n-1].kind == l.kind && lines[n-1].g == l.g {
		lines[n-1].amount += l.amount
		lines[n-1].rollovers = append(lines[n-1].rollovers, l.rollovers...)
		return lines
	}
	return append(lines, l)
}

// deduct is semantics, Deduction order: both passes.
func (p *pool) deduct(need int64, force bool) (lines []line) {
	take := func(g *grant, from *int64, most int64, kind balance.Kind) {
		amount := min(need, most)
		if amount <= 0 {
			return
		}
		*from += amount
		need -= amount
		lines = addLine(lines, line{g: g, amount: amount, kind: kind})
	}
	for _, u := range p.pooledRollovers() {
		if amount := min(need, u.r.left); amount > 0 {
			u.r.left -= amount
			u.g.fromRollovers += amount
			need -= amount
			lines = addLine(lines, line{u.g, amount, balance.KindRollover, []piece{{u.r.expires, amount}}})
		}
	}
	for _, g := range p.grants {
		if g.unlimited {
			take(g, &g.over, need, balance.KindUnlimited)
			continue
		}
		take(g, &g.usedIncluded, g.included-g.usedIncluded, balance.KindIncluded)
		take(g, &g.usedPrepaid, g.prepaid-g.usedPrepaid, balance.KindPrepaid)
	}
	for _, g := range p.grants {
		switch {
		case !g.overage:
		case g.max == balance.Unbounded:
			take(g, &g.over, need, balance.KindOverage)
		default:
			take(g, &g.over, g.max-g.over, balance.KindOverage)
		}
	}
	if force {
		last := p.grants[len(p.grants)-1]
		take(last, &last.over, need, balance.KindOverage)
	}
	return lines
}

// giveBack is the same order backwards. What is held of a balance can only be given back by its lock.
func (p *pool) giveBack(amount int64) (lines []line) {
	give := func(g *grant, from *int64, most int64, kind balance.Kind) int64 {
		back := min(amount, most, g.usage()-g.held)
		if back <= 0 {
			return 0
		}
		*from -= back
		amount -= back
		lines = addLine(lines, line{g: g, amount: -back, kind: kind})
		return back
	}
	backwards := slices.Clone(p.grants)
	slices.Reverse(backwards)
	for _, g := range backwards {
		if !g.unlimited {
			give(g, &g.over, g.over, balance.KindOverage)
		}
	}
	for _, g := range backwards {
		if g.unlimited {
			give(g, &g.over, g.over, balance.KindUnlimited)
			continue
		}
		give(g, &g.usedPrepaid, g.usedPrepaid, balance.KindPrepaid)
		give(g, &g.usedIncluded, g.usedIncluded, balance.KindIncluded)
	}
	rollovers := p.pooledRollovers()
	slices.Reverse(rollovers)
	for _, u := range rollovers {
		u.r.left += give(u.g, &u.g.fromRollovers, u.r.atStart-u.r.left, balance.KindRollover)
	}
	return lines
}
