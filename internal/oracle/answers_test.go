package oracle

import (
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"tollgate/internal/balance"
	"tollgate/internal/wire"
)

// answer is what a request leads to: everything of its result and its usage events
// but the request's own id and texts for people.
type answer struct {
	Code     balance.Code // of a check; of a command that failed
	Feature  string
	Entity   string
	Need     json.Number // "" where it is not known
	Pool     *wire.PoolRecord
	Draws    []wire.DrawRecord           // of a check, and of lock.finalize
	Both     map[string]*wire.PoolRecord // of a check that draws from two pools
	Flag     string                      // the plan that includes it
	Scenario string                      // of the preview
	Products []string
	Pools    map[string]*wire.PoolRecord // of a command that was carried out
	Plans    []string                    // customer.get: <plan>@<entity>
	Entities map[string]map[string]*wire.PoolRecord
	// EntityCount is how many entities there are, 0 where all are shown.
	EntityCount int
	Flags       map[string]string
	EventIDs    []string
	Lock        *wire.LockRecord     // made by a check, or that a command is about
	Locks       []wire.LockRecord    // customer.get
	Value       json.Number          // of lock.finalize
	Forfeited   []wire.ForfeitRecord // of lock.finalize
	At          int64
	Events      []event
}

// event is a usage event.
type event struct {
	ID         string
	Entity     string
	Feature    string
	Value      json.Number
	Draws      []wire.DrawRecord
	Properties string
	Deductions []wire.DeductionRecord
	LockID     string
}

func (w *world) number(feature string, units int64) json.Number {
	return json.Number(balance.FormatUnits(units, w.catalog.Feature(feature).Precision))
}

func (w *world) numberOrNil(feature string, units int64) *json.Number {
	if units == balance.Unbounded {
		return nil
	}
	n := w.number(feature, units)
	return &n
}

func textOrNil(text string) *string {
	if text == "" {
		return nil
	}
	return &text
}

func msOrNil(at time.Time) *int64 {
	if at.IsZero() {
		return nil
	}
	ms := at.UnixMilli()
	return &ms
}

// maxShown is how many balances, and how many rollovers, of a pool a result shows.
const maxShown = 100

// show sums a pool up (messages: Check result). It is nil where the pool is empty.
func (w *world) show(p *pool) *wire.PoolRecord {
	if len(p.grants) == 0 {
		return nil
	}
	out := &wire.PoolRecord{FeatureID: p.feature, Rollovers: []wire.RolloverRecord{}}
	var granted, remaining, usage, held, purchase int64
	bounded := true
	for i, g := range p.grants {
		granted, remaining, usage = granted+g.included+g.prepaid, remaining+g.remaining(), usage+g.usage()
		held += g.held
		out.Unlimited = out.Unlimited || g.unlimited
		if g.overage {
			out.OverageAllowed = true
			bounded = bounded && g.max != balance.Unbounded
			purchase += g.max
		}
		if at := msOrNil(g.nextReset); at != nil && (out.NextResetAt == nil || *at < *out.NextResetAt) {
			out.NextResetAt = at
		}
		if i < maxShown {
			out.Breakdown = append(out.Breakdown, w.showGrant(g))
		}
	}
	out.BreakdownTruncated = len(p.grants) > maxShown
	for _, u := range p.pooledRollovers() {
		if u.r.left == 0 {
			continue
		}
		if len(out.Rollovers) == maxShown {
			out.RolloversTruncated = true
			break
		}
		out.Rollovers = append(out.Rollovers, wire.RolloverRecord{
			BalanceID: u.g.name(), Remaining: w.number(p.feature, u.r.left), ExpiresAt: msOrNil(u.r.expires),
		})
	}
	out.Granted, out.Remaining, out.Usage = w.number(p.feature, granted), w.number(p.feature, remaining), w.number(p.feature, usage)
	out.Held = w.number(p.feature, held)
	if out.OverageAllowed && bounded {
		out.MaxPurchase = w.numberOrNil(p.feature, purchase)
	}
	return out
}

func (w *world) showGrant(g *grant) wire.BalanceRecord {
	out := wire.BalanceRecord{
		ID: g.name(), PlanID: textOrNil(g.plan),
		IncludedGrant: w.number(g.feature, g.included), PrepaidGrant: w.number(g.feature, g.prepaid),
		Remaining: w.number(g.feature, g.remaining()), Usage: w.number(g.feature, g.usage()), Held: w.number(g.feature, g.held),
		Unlimited: g.unlimited, ExpiresAt: msOrNil(g.expires),
	}
	if g.reset.Interval != balance.NoInterval {
		out.Reset = &wire.ResetRecord{Interval: string(g.reset.Interval), ResetsAt: msOrNil(g.nextReset)}
		if g.reset.Count > 1 {
			out.Reset.IntervalCount = g.reset.Count
		}
	}
	return out
}

// showAll shows every pool that the customer ("") or an entity has something in.
func (w *world) showAll(c *customer, entity string) map[string]*wire.PoolRecord {
	var pools []*pool
	for i := range w.catalog.Features {
		pools = append(pools, c.poolOf(w.catalog.Features[i].ID, entity))
	}
	return w.showPools(pools...)
}

// showPools shows pools by feature.
func (w *world) showPools(pools ...*pool) map[string]*wire.PoolRecord {
	out := map[string]*wire.PoolRecord{}
	for _, p := range pools {
		if shown := w.show(p); shown != nil {
			out[p.feature] = shown
		}
	}
	return out
}

// showDraws tells what was taken of each pool, and what is left.
func (w *world) showDraws(draws []*draw) (out []wire.DrawRecord) {
	for _, d := range draws {
		if len(d.lines) == 0 {
			continue
		}
		var applied int64
		for _, l := range d.lines {
			applied += l.amount
		}
		out = append(out, wire.DrawRecord{
			FeatureID: d.p.feature, Value: w.number(d.p.feature, applied), Remaining: w.number(d.p.feature, d.p.remaining()),
		})
	}
	return out
}

// emit adds the usage event of draws to an answer, where anything was taken.
func (w *world) emit(a *answer, entity, feature string, value int64, properties string, draws []*draw) {
	e := event{ID: w.record, Entity: entity, Feature: feature, Value: w.number(feature, value), Properties: "{}", Draws: w.showDraws(draws)}
	if len(e.Draws) == 0 {
		return
	}
	if n := len(a.Events); n > 0 {
		e.ID = fmt.Sprintf("%s#%d", w.record, n+1)
	}
	if properties != "" {
		e.Properties = properties
	}
	for _, d := range draws {
		for _, l := range d.lines {
			e.Deductions = append(e.Deductions, w.showLine(l.g.feature, l.g.name(), l.g.plan, l.amount, l.kind))
			l.g.told += l.amount
		}
	}
	a.Events = append(a.Events, e)
	a.EventIDs = append(a.EventIDs, e.ID)
}

func (w *world) showLine(feature, name, plan string, amount int64, kind balance.Kind) wire.DeductionRecord {
	return wire.DeductionRecord{FeatureID: feature, BalanceID: name, PlanID: textOrNil(plan), Amount: w.number(feature, amount), Kind: kind}
}

// preview is semantics, Preview: scenario and products.
func (w *world) preview(a *answer, c *customer, feature *balance.Feature, entity string, limited bool) {
	a.Scenario, a.Products = "feature_flag", []string{}
	if limited {
		a.Scenario = "usage_limit"
	}
	covering := []string{feature.ID}
	for i := range w.catalog.Features {
		for _, cost := range w.catalog.Features[i].CreditSchema {
			if cost.FeatureID == feature.ID {
				covering = append(covering, w.catalog.Features[i].ID)
			}
		}
	}
	has, current := map[string]bool{}, map[string]*balance.Plan{}
	for _, owner := range slices.Compact([]string{"", entity}) {
		for _, at := range c.plans {
			if at.entity == owner {
				has[at.plan] = true
				if plan := w.catalog.Plan(at.plan); plan != nil && !plan.AddOn {
					current[plan.Group] = plan
				}
			}
		}
	}
	var main, addOns []*balance.Plan
	for i := range w.catalog.Plans {
		plan := &w.catalog.Plans[i]
		helps := slices.ContainsFunc(plan.Items, func(item balance.Item) bool { return slices.Contains(covering, item.FeatureID) })
		better := current[plan.Group] == nil || plan.MonthlyCost().Cmp(current[plan.Group].MonthlyCost()) > 0
		switch {
		case !helps:
		case plan.AddOn && (!has[plan.ID] || plan.IsOneOffAddOn()):
			addOns = append(addOns, plan)
		case !plan.AddOn && !has[plan.ID] && better:
			main = append(main, plan)
		}
	}
	for _, plans := range [][]*balance.Plan{main, addOns} {
		slices.SortStableFunc(plans, func(a, b *balance.Plan) int { return a.MonthlyCost().Cmp(b.MonthlyCost()) })
		for _, plan := range plans {
			a.Products = append(a.Products, plan.ID)
		}
	}
}
