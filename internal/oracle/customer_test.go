package oracle

import (
	"maps"
	"slices"
	"time"

	"tollgate/internal/balance"
)

// customer is all that is known of one.
type customer struct {
	ages     int
	grants   []*grant
	plans    []*attachment
	entities []*entity
	keys     map[string]firstAnswer // of idempotency keys; they end with the customer
	locks    []*lock                // held, or settled and remembered
}

// maxBalances is how many live balances of one feature the customer, or an entity, may hold.
const maxBalances = 1000

type entity struct {
	id, feature string
}

// attachment is a plan of the customer ("") or of an entity.
type attachment struct {
	plan    string
	group   string
	addOn   bool
	entity  string
	started time.Time
	flags   []string // boolean features, as the plan had them then
	bought  map[string]int64
	times   int64
}

// world is the whole state, as the oracle knows it.
type world struct {
	catalog   *balance.Catalog
	now       time.Time
	record    string // <topic>/<partition>/<offset>@<timestamp> of the request at hand
	customers map[string]*customer
	forgot    time.Time // when the last of the locks that are forgotten was
}

// firstAnswer is what the first request with an idempotency key asked and got.
type firstAnswer struct {
	question string
	until    time.Time
	answer   answer
}

// settle applies what is due: of locks and balances, each at its own time.
func (c *customer) settle(w *world) {
	c.expireLocks(w)
	c.settleBalances(w, w.now)
}

// settleBalances applies what is due of all the customer's balances up to a time.
func (c *customer) settleBalances(w *world, until time.Time) {
	c.grants = slices.DeleteFunc(c.grants, func(g *grant) bool { return ended(g.expires, until) })
	for _, g := range c.grants {
		g.settle(w.catalog, until)
	}
}

func (c *customer) entity(id string) *entity {
	for _, e := range c.entities {
		if e.id == id {
			return e
		}
	}
	return nil
}

// knows says whether the entity exists; none is given as "".
func (c *customer) knows(entity string) bool { return entity == "" || c.entity(entity) != nil }

// holders are those who get a balance of an item of a plan attached to entity.
func (c *customer) holders(item *balance.Item, entity string) []string {
	if item.PerEntity == "" || entity != "" {
		return []string{entity}
	}
	var ids []string
	for _, e := range c.entities {
		if e.feature == item.PerEntity {
			ids = append(ids, e.id)
		}
	}
	return ids
}

// newGrant makes a balance of a plan's item, with its first reset after a time.
func (c *customer) newGrant(plan *balance.Plan, item *balance.Item, holder string, perEntity bool, anchor, after time.Time, bought, times int64) *grant {
	c.ages++
	g := &grant{
		feature: item.FeatureID, number: item.Number, entity: holder, perEntity: perEntity, rank: 2, age: c.ages,
		anchor: anchor, reset: item.Reset, nextReset: nextBoundary(anchor, item.Reset, after),
		unlimited: item.Unlimited, rule: item.Rollover, times: times, prepaid: bought,
		included: min(item.Included*times, balance.MaxUnits-bought),
	}
	g.overage, g.max = item.Overage()
	if plan != nil {
		g.plan, g.rank = plan.ID, 0
		if plan.AddOn {
			g.rank = 1
		}
	}
	c.grants = append(c.grants, g)
	return g
}

// quantity is what was bought of an item: that of the plan's first prepaid item of
// the feature, given or not.
func quantity(plan *balance.Plan, item *balance.Item, quantities map[string]int64) (int64, bool) {
	for i := range plan.Items {
		if first := &plan.Items[i]; first.FeatureID == item.FeatureID && first.IsPrepaid() {
			n, given := quantities[item.FeatureID]
			if !given || first != item {
				return 0, false
			}
			unit := item.Price.BillingUnits
			return (n + unit - 1) / unit * unit, true
		}
	}
	return 0, false
}

// ofItem are the balances that an attachment made of an item.
func (c *customer) ofItem(at *attachment, item *balance.Item) []*grant {
	var all []*grant
	for _, g := range c.grants {
		if at.made(g) && g.feature == item.FeatureID && g.number == item.Number {
			all = append(all, g)
		}
	}
	return all
}

// attempt makes a change, or none of it where that fails, or makes more balances of one
// feature than their owner may hold.
func (c *customer) attempt(change func() balance.Code) balance.Code {
	before := *c
	before.grants, before.plans = make([]*grant, len(c.grants)), make([]*attachment, len(c.plans))
	for i, g := range c.grants {
		before.grants[i] = g.clone()
	}
	for i, a := range c.plans {
		was := *a
		was.bought = maps.Clone(a.bought)
		before.plans[i] = &was
	}
	code := change()
	held := map[holding]int{}
	for _, g := range c.grants {
		h := holding{g.feature, g.entity}
		if held[h]++; held[h] > maxBalances && code == "" {
			code = balance.TooManyBalances
		}
	}
	if code != "" {
		*c = before
	}
	return code
}

// attach is plan.attach (messages: Commands). Where it fails it may have changed something.
func (c *customer) attach(w *world, plan *balance.Plan, entity string, quantities map[string]int64, started time.Time) balance.Code {
	for _, a := range c.plans {
		if a.plan == plan.ID && a.entity == entity {
			return c.attachAgain(plan, a, quantities, started)
		}
	}
	var moving map[holding]int64
	for _, a := range c.plans {
		if !plan.AddOn && !a.addOn && a.entity == entity && a.group == plan.Group {
			moving = c.detach(w, a)
			break
		}
	}
	c.ages++
	a := &attachment{plan: plan.ID, group: plan.Group, addOn: plan.AddOn, entity: entity, started: started, bought: map[string]int64{}, times: 1}
	c.plans = append(c.plans, a)
	for i := range plan.Items {
		item := &plan.Items[i]
		if w.catalog.Feature(item.FeatureID).Type == balance.Boolean {
			a.flags = append(a.flags, item.FeatureID)
			continue
		}
		bought, given := quantity(plan, item, quantities)
		if given {
			a.bought[itemKey(item)] = bought
		}
		for _, holder := range c.holders(item, entity) {
			c.newGrant(plan, item, holder, holder != entity, started, started, bought, 1)
		}
	}
	c.settle(w)
	return c.move(moving, a)
}

func itemKey(item *balance.Item) string {
	return item.FeatureID + "#" + string(rune('0'+item.Number))
}

func (c *customer) attachAgain(plan *balance.Plan, a *attachment, quantities map[string]int64, started time.Time) balance.Code {
	for i := range plan.Items {
		item := &plan.Items[i]
		bought, given := quantity(plan, item, quantities)
		for _, g := range c.ofItem(a, item) {
			switch {
			case plan.IsOneOffAddOn():
				g.raise(item.Included, bought)
				g.times++
			case given && item.IsPrepaid():
				g.buy(bought)
			}
			if !g.fits() {
				return balance.AmountOutOfRange
			}
		}
	}
	for i := range plan.Items {
		item := &plan.Items[i]
		bought, given := quantity(plan, item, quantities)
		if plan.IsOneOffAddOn() {
			a.bought[itemKey(item)] += bought
			if len(c.ofItem(a, item)) == 0 {
				for _, holder := range c.holders(item, a.entity) {
					c.newGrant(plan, item, holder, holder != a.entity, started, started, bought, 1)
				}
			}
		} else if given {
			a.bought[itemKey(item)] = bought
		}
	}
	if plan.IsOneOffAddOn() {
		a.times++
	}
	return ""
}

// made says whether the attachment made the balance.
func (a *attachment) made(g *grant) bool {
	mine := g.entity == a.entity && !g.perEntity || a.entity == "" && g.perEntity
	return g.plan == a.plan && mine
}

// holding is all that one owner holds of a feature.
type holding struct{ feature, owner string }

// detach takes a plan and its balances away. It returns how much of features that are not
// consumed they counted as used: that is still in use (semantics: Seats and plans).
func (c *customer) detach(w *world, a *attachment) map[holding]int64 {
	inUse := map[holding]int64{}
	for _, g := range c.grants {
		feature := w.catalog.Feature(g.feature)
		if a.made(g) && feature.Type == balance.Metered && !feature.Consumable && g.usage() > 0 {
			inUse[holding{g.feature, g.entity}] += g.usage()
		}
	}
	c.grants = slices.DeleteFunc(c.grants, a.made)
	c.plans = slices.DeleteFunc(c.plans, func(other *attachment) bool { return other == a })
	return inUse
}

// move counts what is still in use on the balances that a new plan (nil for none) made for
// the owner; where it made none, on what the owner holds beside. Where that is nothing, the
// usage is gone.
func (c *customer) move(inUse map[holding]int64, to *attachment) balance.Code {
	for h, usage := range inUse {
		p := c.owned(h.feature, h.owner)
		if made := slices.DeleteFunc(slices.Clone(p.grants), func(g *grant) bool { return to == nil || !to.made(g) }); len(made) > 0 {
			p.grants = made
		}
		if len(p.grants) == 0 {
			continue
		}
		lines, fits := p.take(usage, true)
		if !fits || usage > balance.MaxUnits {
			return balance.AmountOutOfRange
		}
		for _, l := range lines {
			l.g.told += l.amount
		}
	}
	return ""
}

// flag is the plan that includes a boolean feature, "" where none does.
func (c *customer) flag(feature, entity string) string {
	for _, owner := range slices.Compact([]string{"", entity}) {
		for _, a := range c.plans {
			if a.entity == owner && slices.Contains(a.flags, feature) {
				return a.plan
			}
		}
	}
	return ""
}
