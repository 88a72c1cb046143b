package oracle

import (
	"encoding/json"
	"slices"
	"time"

	"pgregory.net/rapid"

	"tollgate/internal/balance"
)

// Few of each, so that requests meet.
var (
	customers  = []string{"acme", "glo{b}ex", "*"}
	entities   = []string{"ann", "b:ob", "3:x"}
	grantIDs   = []string{"gift", "bonus", "@"}
	badIDs     = []string{"auto-1", "auto-", "free/messages", "/"}
	lockIDs    = []string{"", "", "L1", "L2", "l:3"}
	balanceIDs = []string{"", "", "", "", "gift", "bonus", "free/messages", "pro/credits", "team/messages@ann", "pack/tokens", "auto-1"}
)

func one[T any](t *rapid.T, name string, from ...T) T { return rapid.SampledFrom(from).Draw(t, name) }

// seldom is true once in 2^halvings times. A number would do, but rapid favours small ones.
func seldom(t *rapid.T, name string, halvings int) bool {
	yes := true
	for range halvings {
		yes = rapid.Bool().Draw(t, name) && yes
	}
	return yes
}

func drawFeature(t *rapid.T, c *balance.Catalog, wanted func(*balance.Feature) bool) string {
	var ids []string
	for i := range c.Features {
		if wanted(&c.Features[i]) {
			ids = append(ids, c.Features[i].ID)
		}
	}
	return rapid.SampledFrom(ids).Draw(t, "feature")
}

func isMetered(f *balance.Feature) bool    { return f.Type != balance.Boolean }
func isConsumable(f *balance.Feature) bool { return f.Type != balance.Boolean && f.Consumable }
func isSeat(f *balance.Feature) bool       { return f.Type == balance.Metered && !f.Consumable }

// drawUnits draws an amount of a feature: mostly as small as the grants, sometimes
// of a fraction, sometimes at the edge of what fits.
func drawUnits(t *rapid.T, c *balance.Catalog, feature string, least int64) int64 {
	whole := int64(1)
	for range c.Feature(feature).Precision {
		whole *= 10
	}
	switch rapid.IntRange(0, 24).Draw(t, "size") {
	case 0:
		return rapid.Int64Range(balance.MaxUnits-5, balance.MaxUnits).Draw(t, "units")
	case 6:
		return whole * rapid.Int64Range(0, 1500).Draw(t, "many")
	case 1:
		return max(least, -1) * rapid.Int64Range(0, balance.MaxUnits).Draw(t, "units")
	case 2, 3, 4, 5:
		return rapid.Int64Range(max(least, -20)*whole, 20*whole).Draw(t, "units")
	}
	return whole * rapid.Int64Range(max(least, -4), 12).Draw(t, "whole")
}

const anySign = -1 << 40

func drawEntity(t *rapid.T, ids []string) string {
	if seldom(t, "of an entity", 2) {
		return one(t, "entity", slices.Concat(ids, ids[:2])...)
	}
	return ""
}

// drawTime draws how much time passes: mostly a little.
func drawTime(t *rapid.T) time.Duration {
	step := one(t, "step", time.Second, 40*time.Minute, 7*time.Hour, 23*time.Hour, 6*24*time.Hour, 17*24*time.Hour, 31*24*time.Hour, 62*24*time.Hour, 800*24*time.Hour)
	return step + time.Duration(rapid.IntRange(0, 999).Draw(t, "ms"))*time.Millisecond
}

func drawKey(t *rapid.T) string {
	if seldom(t, "keyed", 3) {
		return one(t, "key", "k1", "k2", "k3")
	}
	return ""
}

func drawCheck(t *rapid.T, w *world, ids []string) request {
	c, now := w.catalog, w.now
	r := request{
		Customer: one(t, "customer", customers...), Entity: drawEntity(t, ids), Key: drawKey(t),
		Feature: drawFeature(t, c, func(*balance.Feature) bool { return true }),
		Deduct:  one(t, "send_event", true, true, false), Preview: rapid.Bool().Draw(t, "with_preview"),
	}
	r.Units = drawUnits(t, c, r.Feature, anySign)
	if seldom(t, "lock", 2) {
		drawLock(t, w, &r)
	}
	if (r.Deduct || r.Lock) && rapid.Bool().Draw(t, "with properties") {
		r.Properties = `{"model":"small","n":1.10}`
	}
	if seldom(t, "urgent", 4) {
		r.Deadline = now.Add(time.Duration(rapid.IntRange(-2, 2).Draw(t, "deadline")) * time.Millisecond)
	}
	if seldom(t, "unknown feature", 6) {
		r.Feature = "nothing"
	}
	return r
}

func drawCommand(t *rapid.T, w *world, ids []string) request {
	c, now := w.catalog, w.now
	r := request{
		Customer: one(t, "customer", customers...), Key: drawKey(t),
		Type: one(t, "type", "customer.put", "customer.get", "customer.delete",
			"plan.attach", "plan.attach", "plan.attach", "plan.attach", "plan.detach",
			"entity.create", "entity.create", "entity.delete", "balance.grant", "balance.grant",
			"balance.update", "balance.update", "usage.track", "usage.track", "usage.track",
			"lock.finalize", "lock.finalize", "lock.finalize", "lock.finalize", "lock.extend", "lock.get"),
	}
	switch r.Type {
	case "customer.delete":
		if !seldom(t, "really", 2) {
			r.Type = "customer.get"
		}
	case "plan.attach", "plan.detach":
		r.Plan, r.Entity = c.Plans[rapid.IntRange(0, len(c.Plans)-1).Draw(t, "plan")].ID, drawEntity(t, ids)
		if r.Type == "plan.attach" {
			drawAttachment(t, c, &r, now)
		}
	case "entity.create", "entity.delete":
		r.Entity, r.Feature = one(t, "entity", ids...), drawFeature(t, c, isSeat)
		r.Units = 1
		for range c.Feature(r.Feature).Precision {
			r.Units *= 10
		}
	case "balance.grant":
		r.Entity, r.Feature = drawEntity(t, ids), drawFeature(t, c, isMetered)
		drawGrant(t, c, &r, now)
	case "balance.update":
		r.Entity, r.Feature, r.Balance = drawEntity(t, ids), drawFeature(t, c, isMetered), one(t, "balance", balanceIDs...)
		r.Field = one(t, "field", "remaining", "usage", "add")
		least := int64(0)
		if r.Field == "add" {
			least = anySign
		}
		r.Units = drawUnits(t, c, r.Feature, least)
	case "usage.track":
		r.Entity, r.Feature = drawEntity(t, ids), drawFeature(t, c, isMetered)
		r.Units = drawUnits(t, c, r.Feature, anySign)
		r.Overage = one(t, "overage", "", "reject", "allow")
		if seldom(t, "by event", 2) {
			// The features that bear it have different precisions: whole numbers fit all.
			r.Feature, r.EventName, r.Units = "", "llm", rapid.Int64Range(-3, 9).Draw(t, "value")
			if r.Overage == "" {
				r.Overage = "cap" // the default, said; to an idempotency key that may be another question
			}
		}
	case "lock.finalize", "lock.extend", "lock.get":
		drawLockCommand(t, w, &r)
	}
	return r
}

// drawLock makes a lock of a check.
func drawLock(t *rapid.T, w *world, r *request) {
	if !seldom(t, "lock anything", 3) {
		r.Feature = drawFeature(t, w.catalog, isConsumable)
		r.Units = drawUnits(t, w.catalog, r.Feature, 0)
	}
	r.Lock, r.LockID = true, one(t, "lock_id", lockIDs...)
	r.Overage = one(t, "overage", "", "", "reject", "cap", "allow", "allow")
	if seldom(t, "bad overage", 6) {
		r.Overage = "borrow"
	}
	if r.Units < 0 && !seldom(t, "negative", 3) {
		r.Units = 0
	}
	if rapid.Bool().Draw(t, "ends early") {
		r.Expires = drawExpiry(t, w, r.Customer)
	}
}

// drawExpiry draws when a lock ends: soon, late, when something else is due, or at a time that is refused.
func drawExpiry(t *rapid.T, w *world, customer string) time.Time {
	if due := w.due(customer); len(due) > 0 && rapid.Bool().Draw(t, "when something is due") {
		return rapid.SampledFrom(due).Draw(t, "due").Add(time.Duration(rapid.IntRange(-1, 1).Draw(t, "ms beside")) * time.Millisecond)
	}
	if seldom(t, "refused", 3) {
		return w.now.Add(one(t, "refused", -time.Hour, 0, longestLock+time.Millisecond, 1000*time.Hour))
	}
	return w.now.Add(one(t, "expires", time.Millisecond, time.Second, 30*time.Second, 10*time.Minute, time.Hour, 7*time.Hour, 20*time.Hour, longestLock))
}

// drawLockCommand draws what is done with a lock: mostly with one that is there.
func drawLockCommand(t *rapid.T, w *world, r *request) {
	r.LockID = one(t, "lock_id", lockIDs[2:]...)
	if seldom(t, "no lock_id", 5) {
		r.LockID = ""
	}
	units, precision := int64(5), 0
	if with := w.withLocks(); len(with) > 0 && !seldom(t, "any lock", 3) {
		r.Customer = rapid.SampledFrom(with).Draw(t, "customer with locks")
		locks := w.customers[r.Customer].locks
		l := locks[rapid.IntRange(0, len(locks)-1).Draw(t, "lock")]
		r.LockID, units, precision = l.id, l.units, w.catalog.Feature(l.feature).Precision
	}
	switch r.Type {
	case "lock.extend":
		if !seldom(t, "no expires_at", 5) {
			r.Expires = drawExpiry(t, w, r.Customer)
		}
	case "lock.finalize":
		drawFinalize(t, r, units, precision)
	}
}

func drawFinalize(t *rapid.T, r *request, units int64, precision int) {
	r.Action = one(t, "action", "confirm", "confirm", "confirm", "release")
	if seldom(t, "bad action", 6) {
		r.Action = one(t, "bad action", "", "abort")
	}
	if rapid.Bool().Draw(t, "with properties") {
		r.Properties = one(t, "properties", `{"model":"large"}`, `{}`)
	}
	if r.Action == "release" && !seldom(t, "override a release", 5) {
		return
	}
	switch rapid.IntRange(0, 11).Draw(t, "override") {
	case 0, 1, 2, 3:
		r.Override = balance.FormatUnits(rapid.Int64Range(0, units).Draw(t, "at most what is held"), precision)
	case 4, 5:
		r.Override = balance.FormatUnits(min(units, balance.MaxUnits/2)+rapid.Int64Range(1, 400).Draw(t, "beyond what is held"), precision)
	case 6:
		r.Override = balance.FormatUnits(2*min(units, balance.MaxUnits/2), precision)
	case 7:
		r.Override = one(t, "odd value", "0", "-1", "0.0000000001", "9007199254740991", "90071992547409910")
	}
}

// withLocks are the customers that have locks, held or settled.
func (w *world) withLocks() (with []string) {
	for _, name := range customers {
		if c := w.customers[name]; c != nil && len(c.locks) > 0 {
			with = append(with, name)
		}
	}
	return with
}

// due are the times within a day at which something happens to what a customer holds.
func (w *world) due(customer string) (times []time.Time) {
	c := w.customers[customer]
	if c == nil {
		return nil
	}
	for _, g := range c.grants {
		times = append(times, g.nextReset, g.expires)
		for _, r := range g.rollovers {
			times = append(times, r.expires)
		}
	}
	for _, l := range c.locks {
		times = append(times, l.expires, l.until)
	}
	slices.SortFunc(times, time.Time.Compare)
	times = slices.CompactFunc(times, time.Time.Equal)
	return slices.DeleteFunc(times, func(at time.Time) bool { return !at.After(w.now) || at.After(w.now.Add(longestLock)) })
}

func drawAttachment(t *rapid.T, c *balance.Catalog, r *request, now time.Time) {
	if seldom(t, "started before", 2) {
		r.Started = now.Add(-time.Duration(rapid.Int64Range(0, 90*24*3600_000).Draw(t, "ago")) * time.Millisecond)
	}
	plan := c.Plan(r.Plan)
	for i := range plan.Items {
		if item := &plan.Items[i]; item.IsPrepaid() && rapid.Bool().Draw(t, "bought") {
			if r.Quantities == nil {
				r.Quantities = map[string]int64{}
			}
			r.Quantities[item.FeatureID] = drawUnits(t, c, item.FeatureID, 0) / 2
		}
	}
}

func drawGrant(t *rapid.T, c *balance.Catalog, r *request, now time.Time) {
	// An id that the store makes is not foreseen by the oracle.
	r.Balance = one(t, "balance", grantIDs...)
	if seldom(t, "bad id", 3) {
		r.Balance = one(t, "bad balance", badIDs...)
	}
	r.Unlimited = seldom(t, "unlimited", 4)
	if !r.Unlimited {
		r.Units = drawUnits(t, c, r.Feature, 0)
	}
	r.Reset = balance.Reset{Count: 1}
	if c.Feature(r.Feature).Consumable && rapid.Bool().Draw(t, "resets") {
		r.Reset = balance.Reset{
			Interval: rapid.SampledFrom(balance.Intervals[2:]).Draw(t, "interval"), Count: rapid.IntRange(1, 3).Draw(t, "count"),
		}
	}
	if seldom(t, "ends", 1) {
		r.Expires = now.Add(time.Duration(rapid.Int64Range(1, 40*24*3600_000).Draw(t, "after")) * time.Millisecond)
	}
}

// encode writes a request as its sender would.
func encode(c *balance.Catalog, r *request) []byte {
	fields := map[string]any{"customer_id": r.Customer}
	set := func(name, value string) {
		if value != "" {
			fields[name] = value
		}
	}
	set("type", r.Type)
	set("entity_id", r.Entity)
	set("feature_id", r.Feature)
	set("plan_id", r.Plan)
	set("balance_id", r.Balance)
	set("event_name", r.EventName)
	if r.Type == "" {
		encodeLock(fields, r)
	} else {
		set("overage_behavior", r.Overage)
		set("lock_id", r.LockID)
	}
	set("action", r.Action)
	if r.Override != "" {
		fields["override_value"] = json.Number(r.Override)
	}
	amount := func(feature string, units int64) json.Number {
		precision := 0
		if f := c.Feature(feature); f != nil {
			precision = f.Precision
		}
		return json.Number(balance.FormatUnits(units, precision))
	}
	switch {
	case r.Type == "":
		fields["required_balance"] = amount(r.Feature, r.Units)
		fields["send_event"], fields["with_preview"] = r.Deduct, r.Preview
	case r.Type == "usage.track":
		fields["value"] = amount(r.Feature, r.Units)
	case r.Type == "balance.update":
		fields[r.Field] = amount(r.Feature, r.Units)
	case r.Type == "balance.grant" && r.Unlimited:
		fields["unlimited"] = true
	case r.Type == "balance.grant":
		fields["amount"] = amount(r.Feature, r.Units)
	}
	if r.Properties != "" {
		fields["properties"] = json.RawMessage(r.Properties)
	}
	if r.Reset.Interval != balance.NoInterval {
		fields["reset"] = map[string]any{"interval": r.Reset.Interval, "interval_count": r.Reset.Count}
	}
	if !r.Started.IsZero() {
		fields["starts_at"] = r.Started.UnixMilli()
	}
	if !r.Expires.IsZero() && r.Type != "" {
		fields["expires_at"] = r.Expires.UnixMilli()
	}
	if r.Quantities != nil {
		quantities := map[string]json.Number{}
		for feature, units := range r.Quantities {
			quantities[feature] = amount(feature, units)
		}
		fields["quantities"] = quantities
	}
	text, err := json.Marshal(fields)
	if err != nil {
		panic(err)
	}
	return text
}

func encodeLock(fields map[string]any, r *request) {
	if !r.Lock {
		return
	}
	fields["lock"] = map[string]any{"enabled": true}
	set := func(name string, value any, there bool) {
		if there {
			fields["lock"].(map[string]any)[name] = value
		}
	}
	set("lock_id", r.LockID, r.LockID != "")
	set("overage_behavior", r.Overage, r.Overage != "")
	set("expires_at", r.Expires.UnixMilli(), !r.Expires.IsZero())
}
