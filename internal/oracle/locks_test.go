package oracle

import (
	"cmp"
	"errors"
	"slices"
	"time"

	"tollgate/internal/balance"
	"tollgate/internal/wire"
)

const (
	longestLock    = 24 * time.Hour // from now to expires_at
	lockRemembered = 24 * time.Hour // after it was settled
	mostLocks      = 1000           // that a customer may hold at once
)

// lock is an amount that a customer holds: it was taken, and is not spent yet (controls: Reservations).
type lock struct {
	id, feature, entity string
	units               int64 // of the feature
	expires             time.Time
	overage             string // overage_behavior
	properties          string
	parts               []*part // the own pool before the credit system
	state               balance.LockState

	// Of one that is settled:
	until  time.Time // that it is remembered
	value  int64     // that was confirmed
	answer answer    // that the finalize got
}

// part is what a lock took of one pool. Amounts are units of the pool.
type part struct {
	feature string
	cost    *balance.Decimal // of a credit system, when the lock was made; nil for the lock's own pool
	lines   []*heldLine
}

// heldLine is a line that was taken, and what tells whether it can still go back.
type heldLine struct {
	age        int       // of the balance: one that is made again is younger
	period     time.Time // the end of the balance's period
	name, plan string
	kind       balance.Kind
	amount     int64
	rollovers  []piece
	back       int64 // what of the amount went back, or should have
}

func (p *part) total() (total int64) {
	for _, l := range p.lines {
		total += l.amount
	}
	return total
}

// kept is what has not gone back.
func (p *part) kept() int64 {
	kept := p.total()
	for _, l := range p.lines {
		kept -= l.back
	}
	return kept
}

// lock finds a lock that is held or remembered.
func (c *customer) lock(id string) *lock {
	for _, l := range c.locks {
		if l.id == id {
			return l
		}
	}
	return nil
}

// held are the locks that are held, the soonest to expire first.
func (c *customer) held() []*lock {
	held := slices.DeleteFunc(slices.Clone(c.locks), func(l *lock) bool { return l.state != balance.LockHeld })
	slices.SortFunc(held, func(a, b *lock) int { return cmp.Or(a.expires.Compare(b.expires), cmp.Compare(a.id, b.id)) })
	return held
}

// expireLocks releases the locks that have expired, each at its own time: what of the balances is due until then is
// applied before. Then it forgets those that were settled long ago.
func (c *customer) expireLocks(w *world) {
	for _, l := range c.held() {
		if ended(l.expires, w.now) {
			c.settleBalances(w, l.expires)
			c.giveBackLock(l, make([]int64, len(l.parts)))
			l.settle(balance.LockHasExpired, l.expires)
		}
	}
	c.locks = slices.DeleteFunc(c.locks, func(l *lock) bool {
		forget := l.state != balance.LockHeld && ended(l.until, w.now)
		if forget && l.until.After(w.forgot) {
			w.forgot = l.until
		}
		return forget
	})
}

// lockedByBalance adds up what the locks hold of each balance.
func (c *customer) lockedByBalance() map[*grant]int64 {
	locked := map[*grant]int64{}
	for _, l := range c.held() {
		for _, p := range l.parts {
			for _, line := range p.lines {
				if g := c.source(line); g != nil {
					locked[g] += line.amount
				}
			}
		}
	}
	return locked
}

func (l *lock) settle(state balance.LockState, at time.Time) {
	l.state, l.until = state, at.Add(lockRemembered)
}

// refuseLock says what stands against a lock before anything is decided, "" for nothing.
func (w *world) refuseLock(c *customer, feature *balance.Feature, r *request) balance.Code {
	switch {
	case !feature.Consumable:
		return balance.NotConsumable
	case r.Units < 0, !isOverageBehavior(r.Overage), !r.Expires.IsZero() && !w.canExpire(r.Expires):
		return balance.InvalidRequest
	case c.lock(w.lockID(r)) != nil:
		return balance.Conflict
	case len(c.held()) >= mostLocks:
		return balance.TooManyLocks
	}
	return ""
}

func isOverageBehavior(name string) bool {
	return slices.Contains([]string{"", "reject", "cap", "allow"}, name)
}

// canExpire says whether a lock may end at a time.
func (w *world) canExpire(at time.Time) bool {
	return at.After(w.now) && !at.After(w.now.Add(longestLock))
}

func (w *world) lockID(r *request) string { return cmp.Or(r.LockID, w.record) }

// hold makes a lock of what was taken for it.
func (w *world) hold(c *customer, r *request, choice *choice) *wire.LockRecord {
	l := &lock{
		id: w.lockID(r), feature: r.Feature, entity: r.Entity, units: r.Units, expires: r.Expires, overage: cmp.Or(r.Overage, "reject"),
		properties: r.Properties, state: balance.LockHeld,
	}
	if l.expires.IsZero() {
		l.expires = w.now.Add(longestLock)
	}
	for _, d := range choice.draws {
		if len(d.lines) == 0 {
			continue
		}
		p := &part{feature: d.p.feature}
		if d.p != choice.own.p {
			p.cost = &choice.cost
		}
		for _, taken := range d.lines {
			g := taken.g
			g.held += taken.amount
			p.lines = append(p.lines, &heldLine{
				age: g.age, period: g.nextReset, name: g.name(), plan: g.plan, kind: taken.kind, amount: taken.amount, rollovers: taken.rollovers,
			})
		}
		l.parts = append(l.parts, p)
	}
	c.locks = append(c.locks, l)
	return &wire.LockRecord{LockID: l.id, Value: w.number(l.feature, l.units), ExpiresAt: l.expires.UnixMilli()}
}

// source is the balance that a line came from, nil where it is gone, or has been reset since.
func (c *customer) source(l *heldLine) *grant {
	for _, g := range c.grants {
		if g.age == l.age && g.nextReset.Equal(l.period) {
			return g
		}
	}
	return nil
}

// giveBackLock gives back what a lock need not keep of each of its parts, last taken first, and holds nothing any more.
// It returns what of each part was forfeited.
func (c *customer) giveBackLock(l *lock, keep []int64) []int64 {
	forfeited := make([]int64, len(l.parts))
	for i, p := range slices.Backward(l.parts) {
		back := p.total() - keep[i]
		for _, held := range slices.Backward(p.lines) {
			held.back = min(back, held.amount)
			back -= held.back
			g := c.source(held)
			if g == nil {
				forfeited[i] += held.back
				continue
			}
			lost := g.takeBack(held)
			g.held -= held.amount
			g.told += held.amount - held.back + lost
			forfeited[i] += lost
		}
	}
	return forfeited
}

// takeBack gives what of a line goes back to where it came from. Something else may have been given back there in
// between: then it goes off the overage, then to what was prepaid, then to what was included, then to the rollovers, the last
// to expire first. It returns what finds no place.
func (g *grant) takeBack(l *heldLine) (lost int64) {
	back := l.back
	give := func(to *int64, most int64) {
		amount := min(back, most, *to)
		*to -= amount
		back -= amount
	}
	switch l.kind {
	case balance.KindOverage, balance.KindUnlimited:
		give(&g.over, back)
	case balance.KindPrepaid:
		give(&g.usedPrepaid, back)
	case balance.KindIncluded:
		give(&g.usedIncluded, back)
	case balance.KindRollover:
		rest := back
		for _, p := range slices.Backward(l.rollovers) {
			ofThis := min(rest, p.amount)
			rest -= ofThis
			lives := false
			for i := range slices.Backward(g.rollovers) {
				if r := &g.rollovers[i]; r.expires.Equal(p.expires) {
					lives = true
					before := back
					give(&g.fromRollovers, min(ofThis, r.atStart-r.left))
					r.left += before - back
					ofThis -= before - back
				}
			}
			if !lives {
				back, lost = back-ofThis, lost+ofThis
			}
		}
	}
	give(&g.over, back)
	give(&g.usedPrepaid, back)
	give(&g.usedIncluded, back)
	for _, u := range slices.Backward((&pool{grants: []*grant{g}}).pooledRollovers()) {
		before := back
		give(&g.fromRollovers, u.r.atStart-u.r.left)
		u.r.left += before - back
	}
	return lost + back
}

// misusesLock says whether a command about a lock is malformed.
func (r *request) misusesLock() bool {
	switch {
	case r.LockID == "":
		return true
	case r.Type == "lock.extend":
		return r.Expires.IsZero()
	case r.Type == "lock.finalize":
		isRelease, isConfirm := r.Action == "release", r.Action == "confirm"
		return !isRelease && !isConfirm || isRelease && r.Override != "" || len(r.Override) > 0 && r.Override[0] == '-'
	}
	return false
}

// finalize is lock.finalize.
func (w *world) finalize(c *customer, r *request) (answer, bool) {
	l := c.lock(r.LockID)
	if l == nil {
		return failed(balance.LockNotFound)
	}
	state, value := balance.LockReleased, int64(0)
	var err error
	if r.Action == "confirm" {
		state, value = balance.LockConfirmed, l.units
	}
	if r.Override != "" {
		value, err = balance.ParseUnits(r.Override, w.catalog.Feature(l.feature).Precision)
	}
	switch {
	case err != nil:
		return failed(amountCode(err))
	case l.state == balance.LockHasExpired:
		return failed(balance.LockExpired)
	case l.state != balance.LockHeld && (l.state != state || l.value != value):
		return failed(balance.LockSettled)
	case l.state != balance.LockHeld: // once more
		again := l.answer
		again.Events = nil
		return again, false
	}
	// What is more than was held is taken first: where it is refused, nothing has changed.
	var more []*draw
	if value > l.units {
		var code balance.Code
		if more, code = w.takeMore(c, l, value-l.units); code != "" {
			return failed(code)
		}
	}
	forfeited := c.giveBackLock(l, w.keep(l, value))
	l.settle(state, w.now)
	l.value = value
	a := w.finalized(c, l, more, forfeited)
	if state == balance.LockConfirmed {
		w.emitConfirmed(&a, l, more, cmp.Or(r.Properties, l.properties, "{}"))
	}
	l.answer = a
	return a, true
}

func amountCode(err error) balance.Code {
	if errors.Is(err, balance.ErrOutOfRange) {
		return balance.AmountOutOfRange
	}
	return balance.InvalidRequest
}

// keep is what a lock keeps of each of its parts where a value is confirmed.
func (w *world) keep(l *lock, value int64) []int64 {
	keep, rest := make([]int64, len(l.parts)), min(value, l.units)
	for i, p := range l.parts {
		if p.cost == nil {
			keep[i] = min(rest, p.total())
			rest -= keep[i]
			continue
		}
		// What was held was converted in the same way, and fit.
		keep[i], _ = balance.Convert(rest, w.catalog.Feature(l.feature).Precision, *p.cost, w.catalog.Feature(p.feature).Precision)
	}
	return keep
}

// takeMore takes what is confirmed beyond what was held, as usage.track would.
func (w *world) takeMore(c *customer, l *lock, units int64) ([]*draw, balance.Code) {
	if !c.knows(l.entity) {
		return nil, balance.EntityNotFound
	}
	draws, code := w.consume(c, l.feature, l.entity, units, l.overage)
	if !code.Allowed() {
		return nil, code
	}
	return draws, ""
}

// finalized is the answer of a lock that was settled.
func (w *world) finalized(c *customer, l *lock, more []*draw, forfeited []int64) answer {
	a := answer{
		Lock: w.showLock(l), Value: w.number(l.feature, l.value), Draws: []wire.DrawRecord{}, Forfeited: []wire.ForfeitRecord{},
		At: w.now.UnixMilli(),
	}
	type sum struct {
		feature string
		value   int64
	}
	var drawn []*sum
	add := func(feature string, value int64) {
		for _, s := range drawn {
			if s.feature == feature {
				s.value += value
				return
			}
		}
		drawn = append(drawn, &sum{feature, value})
	}
	for i, p := range l.parts {
		add(p.feature, p.kept())
		if forfeited[i] > 0 {
			a.Forfeited = append(a.Forfeited, wire.ForfeitRecord{FeatureID: p.feature, Value: w.number(p.feature, forfeited[i])})
		}
	}
	for _, d := range more {
		for _, taken := range d.lines {
			add(d.p.feature, taken.amount)
		}
	}
	// The own pool comes first, even if only what was taken at last came from it.
	slices.SortStableFunc(drawn, func(a, b *sum) int { return falseFirst(a.feature != l.feature, b.feature != l.feature) })
	var pools []*pool
	for _, s := range drawn {
		p := c.poolOf(s.feature, l.entity)
		pools = append(pools, p)
		if s.value > 0 {
			a.Draws = append(a.Draws, wire.DrawRecord{
				FeatureID: s.feature, Value: w.number(s.feature, s.value), Remaining: w.number(s.feature, p.remaining()),
			})
		}
	}
	a.Pools = w.showPools(pools...)
	return a
}

// emitConfirmed adds the one usage event of a lock.
func (w *world) emitConfirmed(a *answer, l *lock, more []*draw, properties string) {
	if len(a.Draws) == 0 {
		return
	}
	e := event{
		ID: w.record, Entity: l.entity, Feature: l.feature, Value: a.Value, Draws: a.Draws, Properties: properties, LockID: l.id,
	}
	for _, p := range l.parts {
		for _, held := range p.lines {
			if kept := held.amount - held.back; kept > 0 {
				e.Deductions = append(e.Deductions, w.showLine(p.feature, held.name, held.plan, kept, held.kind))
			}
		}
	}
	for _, d := range more {
		for _, taken := range d.lines {
			e.Deductions = append(e.Deductions, w.showLine(d.p.feature, taken.g.name(), taken.g.plan, taken.amount, taken.kind))
			taken.g.told += taken.amount
		}
	}
	// As in other events, the lines of a pool stand together.
	place := map[string]int{}
	for i, d := range a.Draws {
		place[d.FeatureID] = i
	}
	slices.SortStableFunc(e.Deductions, func(a, b wire.DeductionRecord) int { return cmp.Compare(place[a.FeatureID], place[b.FeatureID]) })
	a.Events, a.EventIDs = []event{e}, []string{e.ID}
}

// extend is lock.extend: another expires_at, which may be sooner, too.
func (w *world) extend(c *customer, r *request) (answer, bool) {
	l := c.lock(r.LockID)
	switch {
	case l == nil:
		return failed(balance.LockNotFound)
	case l.state == balance.LockHasExpired:
		return failed(balance.LockExpired)
	case l.state != balance.LockHeld:
		return failed(balance.LockSettled)
	case !w.canExpire(r.Expires):
		return failed(balance.InvalidRequest)
	}
	l.expires = r.Expires
	return answer{Lock: w.showLock(l), Pools: w.showPools()}, true
}

// getLock is lock.get: of a lock that is settled and remembered, too.
func (w *world) getLock(c *customer, r *request) answer {
	l := c.lock(r.LockID)
	if l == nil {
		return answer{Code: balance.LockNotFound}
	}
	return answer{Lock: w.showLock(l), Pools: w.showPools()}
}

func (w *world) showLock(l *lock) *wire.LockRecord {
	return &wire.LockRecord{
		LockID: l.id, FeatureID: l.feature, EntityID: textOrNil(l.entity), Value: w.number(l.feature, l.units),
		ExpiresAt: l.expires.UnixMilli(), State: l.state,
	}
}

// showLocks lists the locks that are held.
func (w *world) showLocks(c *customer) []wire.LockRecord {
	all := []wire.LockRecord{}
	for _, l := range c.held() {
		all = append(all, *w.showLock(l))
	}
	return all
}
