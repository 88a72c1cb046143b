package oracle

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"tollgate/internal/balance"
	"tollgate/internal/wire"
)

// request is a check (Type "") or a command.
type request struct {
	Type     string
	Customer string
	Entity   string
	Feature  string
	Units    int64 // of the feature: required_balance, value, amount, …
	Deduct   bool
	Preview  bool
	Key      string // idempotency key
	Deadline time.Time

	Properties string
	Plan       string
	Quantities map[string]int64
	Started    time.Time // zero: now
	Balance    string
	Unlimited  bool
	Reset      balance.Reset
	Expires    time.Time
	Field      string // of balance.update
	EventName  string
	Overage    string

	Lock     bool // a check that holds what it takes; until Expires
	LockID   string
	Action   string
	Override string // override_value as it is written, "" where it is absent
}

// remembered says whether the outcome is kept for redelivery.
func (r *request) remembered() bool {
	return r.Type != "customer.get" && r.Type != "lock.get" && (r.Type != "" || r.Deduct || r.Lock)
}

// question is what an idempotency key belongs to (semantics: Redelivery and repeats).
func (r *request) question() string {
	if r.Type == "" {
		question := fmt.Sprintf("check %q %q %d", r.Feature, r.Entity, r.Units)
		if r.Lock {
			question += fmt.Sprintf(" lock %q", r.LockID)
		}
		return question
	}
	asked := *r
	asked.Key, asked.Deadline, asked.Properties = "", time.Time{}, ""
	return fmt.Sprintf("%+v", asked)
}

// answerTo is what the request must be answered with.
func (w *world) answerTo(r *request, record string) answer {
	w.record = record
	c := w.customers[r.Customer]
	if c != nil {
		if first, used := c.keys[r.Key]; used && first.until.After(w.now) {
			return w.repeat(r, first)
		}
		c.settle(w)
	}
	var a answer
	var changed bool
	if r.Type == "" {
		a = w.check(c, r)
		changed = len(a.Events) > 0 || a.Lock != nil
	} else {
		a, changed = w.command(c, r)
	}
	if a.At == 0 { // it is not another's answer
		a.At = w.now.UnixMilli()
	}
	if c := w.customers[r.Customer]; c != nil && r.Key != "" && changed {
		c.keys[r.Key] = firstAnswer{r.question(), w.now.Add(window), a}
	}
	return a
}

// repeat answers a request whose idempotency key was used before.
func (w *world) repeat(r *request, first firstAnswer) answer {
	if first.question == r.question() {
		again := first.answer
		again.Events = nil
		return again
	}
	a := answer{Code: balance.IdempotencyConflict, At: w.now.UnixMilli()}
	if r.Type == "" {
		a.Feature, a.Entity = r.Feature, r.Entity
		if w.catalog.Feature(r.Feature) != nil {
			a.Need = w.number(r.Feature, r.Units)
		}
	}
	return a
}

// check is semantics, Which pool.
func (w *world) check(c *customer, r *request) answer {
	feature := w.catalog.Feature(r.Feature)
	a := answer{Feature: r.Feature, Entity: r.Entity}
	if feature == nil {
		a.Code = balance.FeatureNotFound
		return a
	}
	a.Need = w.number(r.Feature, r.Units)
	switch {
	case ended(r.Deadline, w.now.Add(-1)): // at the deadline itself it is not too late
		a.Code = balance.DeadlineExceeded
	case c == nil:
		a.Code = balance.CustomerNotFound
	case !c.knows(r.Entity):
		a.Code = balance.EntityNotFound
	case feature.Type == balance.Boolean && (r.Deduct || r.Lock):
		a.Code = balance.FlagNotConsumable
	case feature.Type == balance.Boolean:
		a.Code, a.Flag = balance.NotEntitled, c.flag(r.Feature, r.Entity)
		if a.Flag != "" {
			a.Code = balance.Flagged
		}
	default:
		if r.Lock {
			a.Code = w.refuseLock(c, feature, r)
		}
		if a.Code == "" {
			w.checkPools(c, r, &a)
		}
	}
	if r.Preview && !a.Code.IsError() && !a.Code.Allowed() {
		w.preview(&a, c, feature, r.Entity, a.Pool != nil)
	}
	return a
}

func (w *world) checkPools(c *customer, r *request, a *answer) {
	choice := w.choose(c, r.Feature, r.Entity, r.Units)
	a.Code = choice.code
	if a.Code == balance.AmountOutOfRange {
		return
	}
	if a.Code.Allowed() {
		taken := choice.draws
		if !r.Deduct && !r.Lock {
			taken = imagined(taken)
		}
		if !take(taken, false) {
			a.Code = balance.AmountOutOfRange
			return
		}
		a.Draws = w.showDraws(taken)
		switch {
		case r.Lock:
			a.Lock = w.hold(c, r, &choice)
		case r.Deduct:
			w.emit(a, r.Entity, r.Feature, r.Units, r.Properties, taken)
		}
	}
	first := choice.draws[0]
	a.Need, a.Pool = w.number(first.p.feature, first.need), w.show(first.p)
	if len(choice.draws) > 1 {
		a.Both = w.showPools(first.p, choice.draws[1].p)
	}
}

// draw is a pool that is drawn from. Amounts are units of the pool.
type draw struct {
	p     *pool
	need  int64 // what was asked of it
	take  int64 // what is to be taken
	lines []line
}

// choice is what a check of an amount draws from, or where that is denied what is reported.
type choice struct {
	draws []*draw
	code  balance.Code
	own   *draw
	// Of the reported credit system, nil where there is none.
	system *balance.Feature
	cost   balance.Decimal
}

// choose is Which pool: the feature's own before a credit system. A pool whose units the amount does not fit allows
// nothing.
func (w *world) choose(c *customer, feature, entity string, units int64) choice {
	own := c.poolOf(feature, entity)
	first := &draw{p: own, need: units, take: units}
	code := own.decide(units)
	if code == balance.Unlimited || code == balance.Included {
		return choice{draws: []*draw{first}, code: code, own: first}
	}
	there := own.remaining()
	var beyond, reported *choice
	for i := range w.catalog.Features {
		system := &w.catalog.Features[i]
		for _, cost := range system.CreditSchema {
			p := c.poolOf(system.ID, entity)
			if cost.FeatureID != feature || len(p.grants) == 0 {
				continue
			}
			rest := units
			if units > 0 {
				rest -= there
			}
			need, err := balance.Convert(rest, w.catalog.Feature(feature).Precision, cost.Cost, system.Precision)
			candidate := &choice{draws: []*draw{{p: p, need: need, take: need}}, code: balance.AmountOutOfRange, own: first, system: system, cost: cost.Cost}
			if err == nil {
				candidate.code = p.decide(need)
			}
			if reported == nil {
				reported = candidate
			}
			if !candidate.code.Allowed() {
				continue
			}
			if there > 0 && units > 0 {
				candidate.draws = []*draw{{p: own, need: units, take: there}, candidate.draws[0]}
			}
			if candidate.code != balance.Overage {
				return *candidate
			}
			if beyond == nil {
				beyond = candidate
			}
		}
	}
	switch {
	case code.Allowed() || reported == nil:
		return choice{draws: []*draw{first}, code: code, own: first}
	case beyond != nil:
		return *beyond
	}
	return *reported
}

// imagined are draws whose taking changes nothing.
func imagined(draws []*draw) []*draw {
	var all []*draw
	for _, d := range draws {
		copied := *d
		copied.p = &pool{feature: d.p.feature}
		for _, g := range d.p.grants {
			copied.p.grants = append(copied.p.grants, g.clone())
		}
		all = append(all, &copied)
	}
	return all
}

// take takes draws; of the last whatever its bounds, where it is forced. Where an amount would not fit it changes
// nothing and returns false.
func take(draws []*draw, force bool) bool {
	before := imagined(draws)
	for i, d := range draws {
		lines, fits := d.p.take(d.take, force && i == len(draws)-1)
		if !fits {
			for j, earlier := range draws[:i] {
				for k, g := range earlier.p.grants {
					*g = *before[j].p.grants[k]
				}
				earlier.lines = nil
			}
			return false
		}
		d.lines = lines
	}
	return true
}

// startTolerance is how far ahead a plan may start: what clocks may differ by.
const startTolerance = 5 * time.Minute

func failed(code balance.Code) (answer, bool) { return answer{Code: code}, false }

// command is messages, Commands. It says whether anything was changed.
func (w *world) command(c *customer, r *request) (answer, bool) {
	if r.Type == "customer.put" {
		return w.put(c, r)
	}
	plan := w.catalog.Plan(r.Plan)
	switch {
	case strings.HasPrefix(r.Type, "lock.") && r.misusesLock():
		return failed(balance.InvalidRequest)
	case r.Type == "plan.attach" && plan == nil:
		return failed(balance.PlanNotFound)
	case r.Type == "balance.grant" && (strings.Contains(r.Balance, "/") || strings.HasPrefix(r.Balance, "auto-")):
		return failed(balance.InvalidRequest)
	case c == nil:
		return failed(balance.CustomerNotFound)
	case r.Type != "entity.create" && r.Type != "entity.delete" && !c.knows(r.Entity):
		return failed(balance.EntityNotFound)
	case r.Started.After(w.now.Add(startTolerance)), r.Type != "lock.extend" && ended(r.Expires, w.now):
		return failed(balance.InvalidRequest)
	}
	switch r.Type {
	case "customer.get":
		return w.get(c), false
	case "customer.delete":
		delete(w.customers, r.Customer)
		return answer{Pools: w.showPools()}, true
	case "plan.attach":
		started := r.Started
		if started.IsZero() {
			started = w.now
		}
		if code := c.attempt(func() balance.Code { return c.attach(w, plan, r.Entity, r.Quantities, started) }); code != "" {
			return failed(code)
		}
		c.settle(w)
		return answer{Pools: w.showAll(c, r.Entity)}, true
	case "plan.detach":
		for _, a := range c.plans {
			if a.plan == r.Plan && a.entity == r.Entity {
				if code := c.attempt(func() balance.Code { return c.move(c.detach(w, a), nil) }); code != "" {
					return failed(code)
				}
				return answer{Pools: w.showAll(c, r.Entity)}, true
			}
		}
		return failed(balance.PlanNotFound)
	case "entity.create":
		return w.createEntity(c, r)
	case "entity.delete":
		return w.deleteEntity(c, r)
	case "balance.grant":
		return w.grantBalance(c, r)
	case "balance.update":
		return w.updateBalance(c, r)
	case "usage.track":
		return w.track(c, r)
	case "lock.finalize":
		return w.finalize(c, r)
	case "lock.extend":
		return w.extend(c, r)
	case "lock.get":
		return w.getLock(c, r), false
	}
	panic("no such command: " + r.Type)
}

func (w *world) put(c *customer, r *request) (answer, bool) {
	if c == nil {
		c = &customer{keys: map[string]firstAnswer{}}
		w.customers[r.Customer] = c
		for i := range w.catalog.Plans {
			if w.catalog.Plans[i].Default {
				c.attach(w, &w.catalog.Plans[i], "", nil, w.now)
			}
		}
	}
	return answer{Pools: w.showAll(c, "")}, true
}

// entitiesShown is how many entities customer.get lists, the oldest.
const entitiesShown = 100

func (w *world) get(c *customer) answer {
	a := answer{
		Pools: w.showAll(c, ""), Plans: []string{}, Flags: map[string]string{},
		Entities: map[string]map[string]*wire.PoolRecord{}, Locks: w.showLocks(c),
	}
	shown := c.entities
	if len(shown) > entitiesShown {
		shown, a.EntityCount = shown[:entitiesShown], len(shown)
	}
	for _, at := range c.plans {
		if at.entity == "" || slices.ContainsFunc(shown, func(e *entity) bool { return e.id == at.entity }) {
			a.Plans = append(a.Plans, at.plan+"@"+at.entity)
		}
	}
	slices.Sort(a.Plans)
	for i := range w.catalog.Features {
		if plan := c.flag(w.catalog.Features[i].ID, ""); plan != "" {
			a.Flags[w.catalog.Features[i].ID] = plan
		}
	}
	for _, e := range shown {
		held := map[string]*wire.PoolRecord{}
		for i := range w.catalog.Features {
			if p := w.show(c.owned(w.catalog.Features[i].ID, e.id)); p != nil {
				held[p.FeatureID] = p
			}
		}
		a.Entities[e.id] = held
	}
	return a
}

func (w *world) createEntity(c *customer, r *request) (answer, bool) {
	if c.entity(r.Entity) != nil {
		return failed(balance.Conflict)
	}
	choice := w.choose(c, r.Feature, "", r.Units)
	if !choice.code.Allowed() {
		return failed(choice.code)
	}
	if !take(choice.draws, false) {
		return failed(balance.AmountOutOfRange)
	}
	var a answer
	w.emit(&a, "", r.Feature, r.Units, "", choice.draws)
	c.entities = append(c.entities, &entity{r.Entity, r.Feature})
	for _, at := range slices.Clone(c.plans) {
		plan := w.catalog.Plan(at.plan)
		if plan == nil || at.entity != "" {
			continue
		}
		for i := range plan.Items {
			if item := &plan.Items[i]; item.PerEntity == r.Feature {
				c.newGrant(plan, item, r.Entity, true, at.started, w.now, at.bought[itemKey(item)], at.times)
			}
		}
	}
	var pools []*pool
	for _, d := range choice.draws {
		pools = append(pools, c.poolOf(d.p.feature, ""))
	}
	a.Pools = w.showPools(pools...)
	return a, true
}

func (w *world) deleteEntity(c *customer, r *request) (answer, bool) {
	e := c.entity(r.Entity)
	if e == nil {
		return failed(balance.EntityNotFound)
	}
	if r.Feature != "" && r.Feature != e.feature {
		return failed(balance.Conflict)
	}
	c.entities = slices.DeleteFunc(c.entities, func(other *entity) bool { return other == e })
	c.grants = slices.DeleteFunc(c.grants, func(g *grant) bool { return g.entity == e.id })
	c.plans = slices.DeleteFunc(c.plans, func(a *attachment) bool { return a.entity == e.id })
	var a answer
	seat := -w.seat(e.feature)
	choice := w.choose(c, e.feature, "", seat)
	if !choice.code.Allowed() {
		return answer{Pools: w.showPools()}, true
	}
	take(choice.draws, false)
	w.emit(&a, "", e.feature, seat, "", choice.draws)
	a.Pools = w.showPools(choice.draws[0].p)
	return a, true
}

// seat is one whole unit of a feature.
func (w *world) seat(feature string) int64 {
	units := int64(1)
	for range w.catalog.Feature(feature).Precision {
		units *= 10
	}
	return units
}

func (w *world) grantBalance(c *customer, r *request) (answer, bool) {
	for _, g := range c.grants {
		if g.feature == r.Feature && g.entity == r.Entity && r.Balance != "" && g.name() == r.Balance {
			return failed(balance.Conflict)
		}
	}
	item := &balance.Item{FeatureID: r.Feature, Number: 1, Included: r.Units, Unlimited: r.Unlimited, Reset: r.Reset}
	code := c.attempt(func() balance.Code {
		g := c.newGrant(nil, item, r.Entity, false, w.now, w.now, 0, 1)
		g.expires, g.id = r.Expires, r.Balance
		return ""
	})
	if code != "" {
		return failed(code)
	}
	return answer{Pools: w.showPools(c.poolOf(r.Feature, r.Entity))}, true
}

// updateBalance is balance.update: what is granted or taken away lasts until the next reset.
func (w *world) updateBalance(c *customer, r *request) (answer, bool) {
	whole := c.poolOf(r.Feature, r.Entity)
	p := &pool{feature: r.Feature, grants: slices.Clone(whole.grants)}
	if r.Balance != "" {
		at := slices.IndexFunc(p.grants, func(g *grant) bool { return g.name() == r.Balance })
		if at < 0 {
			return failed(balance.BalanceNotFound)
		}
		p.grants = p.grants[at : at+1]
	}
	var remaining, usage, over, held int64
	for _, g := range p.grants {
		if g.unlimited && r.Field != "usage" {
			return failed(balance.InvalidRequest)
		}
		remaining, usage, over, held = remaining+g.remaining(), usage+g.usage(), over+min(g.over, g.usage()-g.held), held+g.held
	}
	switch {
	case len(p.grants) == 0:
		return failed(balance.BalanceNotFound)
	case r.Field != "add" && (remaining > balance.MaxUnits || usage > balance.MaxUnits):
		return failed(balance.AmountOutOfRange)
	case r.Field == "usage" && r.Units < held:
		return failed(balance.InvalidRequest)
	}
	grantMore := func(units int64) {
		p.grants[0].raise(units, 0)
		p.grants[0].added += units
	}
	var before []*grant
	for _, g := range p.grants {
		before = append(before, g.clone())
	}
	code := balance.Code("")
	switch {
	case r.Field == "remaining" && r.Units < remaining:
		p.deduct(remaining-r.Units, false)
	case r.Field == "remaining" && r.Units > remaining:
		p.giveBack(over + r.Units - remaining) // overage first, which leaves the remaining as it is
		remaining = 0
		for _, g := range p.grants {
			remaining += g.remaining()
		}
		// Overage that is left is held. Granting more covers it first.
		if r.Units > remaining {
			grantMore(p.grants[0].over + r.Units - remaining)
		}
	case r.Field == "usage" && r.Units > usage:
		p.deduct(r.Units-usage, true)
	case r.Field == "usage" && r.Units < usage:
		p.giveBack(usage - r.Units)
	case r.Field == "add" && r.Units >= 0:
		grantMore(r.Units)
	case r.Field == "add":
		code = p.grantLess(-r.Units)
	}
	for _, g := range p.grants {
		if !g.fits() {
			code = balance.AmountOutOfRange
		}
	}
	if code != "" {
		for i, g := range p.grants {
			*g = *before[i]
		}
		return failed(code)
	}
	for i, g := range p.grants {
		g.told += g.usage() - before[i].usage() // without an event
	}
	return answer{Pools: w.showPools(whole)}, true
}

// grantLess takes units away of what is left of what was included.
func (p *pool) grantLess(units int64) balance.Code {
	for i := len(p.grants) - 1; i >= 0; i-- {
		g := p.grants[i]
		cut := min(units, g.included-g.usedIncluded)
		g.included, g.added, units = g.included-cut, g.added-cut, units-cut
	}
	if units > 0 {
		return balance.InsufficientFunds
	}
	return ""
}

// anyway makes of a choice that was denied what is taken all the same: what the own pool has, its overage included, and
// the rest from the reported credit system.
func (w *world) anyway(choice *choice, feature string) balance.Code {
	if choice.system == nil {
		return balance.Overage
	}
	own, system := choice.own, choice.draws[0]
	own.take = 0
	for _, l := range imagined([]*draw{own})[0].p.deduct(own.need, false) {
		own.take += l.amount
	}
	need, err := balance.Convert(own.need-own.take, w.catalog.Feature(feature).Precision, choice.cost, choice.system.Precision)
	if err != nil {
		return balance.AmountOutOfRange
	}
	system.take = need
	if own.take > 0 {
		choice.draws = []*draw{own, system}
	}
	return balance.Overage
}

// consume takes an amount without asking. It returns what was drawn, or would have been.
func (w *world) consume(c *customer, feature, entity string, units int64, overageBehavior string) ([]*draw, balance.Code) {
	choice := w.choose(c, feature, entity, units)
	code, force := choice.code, false
	if !code.Allowed() && code != balance.NotEntitled && code != balance.AmountOutOfRange && overageBehavior != "reject" {
		code, force = w.anyway(&choice, feature), overageBehavior == "allow"
	}
	if code.Allowed() && !take(choice.draws, force) {
		code = balance.AmountOutOfRange
	}
	return choice.draws, code
}

// track is semantics, Usage without asking.
func (w *world) track(c *customer, r *request) (answer, bool) {
	var features []string
	for i := range w.catalog.Features {
		f := &w.catalog.Features[i]
		if f.ID == r.Feature || (r.EventName != "" && f.EventName == r.EventName) {
			features = append(features, f.ID)
		}
	}
	var a answer
	var refusal balance.Code
	tracked := false
	var pools []*pool
	for _, feature := range features {
		units := r.Units
		if r.EventName != "" {
			units *= w.seat(feature) // a whole number, in the units of each
		}
		draws, code := w.consume(c, feature, r.Entity, units, cmp.Or(r.Overage, "cap"))
		for _, d := range draws {
			pools = append(pools, d.p)
		}
		if !code.Allowed() {
			refusal = cmp.Or(refusal, code)
			continue
		}
		tracked = true
		w.emit(&a, r.Entity, feature, units, r.Properties, draws)
	}
	if !tracked {
		return failed(refusal)
	}
	a.Pools = w.showPools(pools...)
	return a, len(a.Events) > 0
}
