package engine

import (
	"cmp"
	"encoding/json"
	"slices"
	"strings"
	"time"

	"tollgate/internal/balance"
	"tollgate/internal/store"
	"tollgate/internal/wire"
)

// madeUpPrefix begins the ids of grants that were given none (commands/balance_grant.lua).
const madeUpPrefix = "auto-"

// futureTolerance is how far ahead a plan may start: what clocks may differ by.
const futureTolerance = 5 * time.Minute

func (c *command) customerPut() (store.Call, *balance.Error) {
	return c.engine.store.CustomerPut(c.step(true), c.rules.items, c.Name, c.Email, c.Metadata), nil
}

func (c *command) customerGet() (store.Call, *balance.Error) {
	return c.engine.store.CustomerGet(c.step(false), c.rules.items), nil
}

// profileFields are a customer's flags, plans and entities, each with what it holds itself.
func (c *command) profileFields(outcome *store.CommandOutcome) map[string]any {
	profile := outcome.Profile
	if profile == nil {
		return nil
	}
	customer := map[string]any{"created_at": profile.CreatedMs}
	for name, value := range map[string]string{"name": profile.Name, "email": profile.Email} {
		if value != "" {
			customer[name] = value
		}
	}
	if profile.Metadata != "" {
		customer["metadata"] = json.RawMessage(profile.Metadata)
	}
	plans, entities := []map[string]any{}, []map[string]any{}
	for _, plan := range profile.Plans {
		plans = append(plans, map[string]any{"plan_id": plan.PlanID, "entity_id": orNull(plan.Entity), "started_at": plan.StartedMs})
	}
	for _, entity := range profile.Entities {
		entities = append(entities, map[string]any{
			"entity_id": entity.ID, "feature_id": entity.FeatureID, "name": orNull(entity.Name), "created_at": entity.CreatedMs,
			"balances": wire.PoolFields(c.rules.catalog, entity.Pools),
		})
	}
	locks := []wire.LockRecord{}
	for i := range profile.Locks {
		locks = append(locks, wire.NewLock(c.rules.catalog, &profile.Locks[i]))
	}
	slices.SortFunc(locks, func(a, b wire.LockRecord) int {
		return cmp.Or(cmp.Compare(a.ExpiresAt, b.ExpiresAt), cmp.Compare(a.LockID, b.LockID))
	})
	fields := map[string]any{"customer": customer, "locks": locks, "plans": plans, "entities": entities, "flags": wire.FlagFields(profile.Flags)}
	if len(entities) < profile.EntityCount {
		fields["entities_truncated"], fields["entity_count"] = true, profile.EntityCount
	}
	return fields
}

func orNull(text string) *string {
	if text == "" {
		return nil
	}
	return &text
}

func (c *command) customerDelete() (store.Call, *balance.Error) {
	return c.engine.store.CustomerDelete(c.step(true), c.rules.items), nil
}

func (c *command) planAttach() (store.Call, *balance.Error) {
	if c.PlanID == "" {
		return store.Call{}, invalid("plan_id is missing")
	}
	plan := c.rules.catalog.Plan(c.PlanID)
	if plan == nil {
		return store.Call{}, balance.NewError(balance.PlanNotFound)
	}
	quantities, err := c.boughtUnits(plan)
	if err != nil {
		return store.Call{}, err
	}
	var starts time.Time
	if c.StartsAtMs > 0 {
		starts = time.UnixMilli(c.StartsAtMs)
	}
	return c.engine.store.PlanAttach(c.step(true), c.rules.items, plan, quantities, starts, futureTolerance), nil
}

// boughtUnits are the quantities of prepaid items, rounded up to whole billing units.
func (c *command) boughtUnits(plan *balance.Plan) (map[string]int64, *balance.Error) {
	out := map[string]int64{}
	for featureID, text := range c.Quantities {
		item := prepaidItem(plan, featureID)
		if item == nil {
			return nil, invalid("quantities: plan %s has no prepaid item of %q", plan.ID, featureID)
		}
		bought, err := units("quantities."+featureID, text, c.rules.catalog.Feature(featureID))
		if err != nil {
			return nil, err
		}
		if bought < 0 {
			return nil, invalid("quantities.%s must not be negative", featureID)
		}
		if rest := bought % item.Price.BillingUnits; rest > 0 {
			bought += item.Price.BillingUnits - rest
		}
		if bought > balance.MaxUnits-item.Included {
			return nil, balance.NewError(balance.AmountOutOfRange)
		}
		out[featureID] = bought
	}
	return out, nil
}

func prepaidItem(plan *balance.Plan, featureID string) *balance.Item {
	for i := range plan.Items {
		if item := &plan.Items[i]; item.FeatureID == featureID && item.IsPrepaid() {
			return item
		}
	}
	return nil
}

func (c *command) planDetach() (store.Call, *balance.Error) {
	if c.PlanID == "" {
		return store.Call{}, invalid("plan_id is missing")
	}
	return c.engine.store.PlanDetach(c.step(true), c.rules.items, c.PlanID), nil
}

// seats is a number of seats in units of a seat-like feature.
func seats(n string, feature *balance.Feature) int64 {
	count, _ := balance.ParseUnits(n, feature.Precision) // a whole number fits every precision
	return count
}

func (c *command) entityCreate() (store.Call, *balance.Error) {
	if c.EntityID == "" {
		return store.Call{}, invalid("entity_id is missing")
	}
	feature, err := c.metered()
	if err != nil {
		return store.Call{}, err
	}
	if !feature.IsSeatLike() {
		return store.Call{}, invalid("%s is consumable; an entity takes a seat of a feature with consumable: false", feature.ID)
	}
	return c.engine.store.EntityCreate(c.step(true), c.rules.items, feature.ID, c.Name,
		needs(c.rules.catalog, feature, seats("1", feature))), nil
}

func (c *command) entityDelete() (store.Call, *balance.Error) {
	if c.EntityID == "" {
		return store.Call{}, invalid("entity_id is missing")
	}
	var all []store.SeatNeeds
	for i := range c.rules.catalog.Features {
		if feature := &c.rules.catalog.Features[i]; feature.IsSeatLike() {
			all = append(all, store.SeatNeeds{FeatureID: feature.ID, Needs: needs(c.rules.catalog, feature, seats("-1", feature))})
		}
	}
	return c.engine.store.EntityDelete(c.step(true), c.rules.items, c.FeatureID, all), nil
}

func (c *command) balanceGrant() (store.Call, *balance.Error) {
	feature, err := c.metered()
	if err != nil {
		return store.Call{}, err
	}
	grant := store.Grant{
		FeatureID: feature.ID, BalanceID: c.BalanceID, Unlimited: c.Unlimited, Reset: c.Reset, ExpiresMs: c.ExpiresAtMs,
	}
	if strings.Contains(c.BalanceID, "/") || strings.HasPrefix(c.BalanceID, madeUpPrefix) {
		return store.Call{}, invalid("balance_id must not contain / nor begin with %s, as ids do that are made here", madeUpPrefix)
	}
	if (c.Amount == "") != c.Unlimited {
		return store.Call{}, invalid("give either an amount or unlimited: true")
	}
	if !c.Unlimited {
		if grant.Units, err = units("amount", c.Amount, feature); err != nil {
			return store.Call{}, err
		}
		if grant.Units < 0 {
			return store.Call{}, invalid("amount must not be negative")
		}
	}
	if c.Reset.Interval != balance.NoInterval && !feature.Consumable {
		return store.Call{}, invalid("%s is not consumable, it never resets", feature.ID)
	}
	return c.engine.store.BalanceGrant(c.step(true), c.rules.items, grant), nil
}

// grantFields tell the balance's id.
func (c *command) grantFields(outcome *store.CommandOutcome) map[string]any {
	return map[string]any{"balance_id": outcome.GrantID}
}

func (c *command) balanceUpdate() (store.Call, *balance.Error) {
	feature, err := c.metered()
	if err != nil {
		return store.Call{}, err
	}
	var field store.Field
	var text string
	given := 0
	for name, value := range map[store.Field]string{store.FieldRemaining: c.Remaining, store.FieldUsage: c.Usage, store.FieldAdd: c.Add} {
		if value != "" {
			field, text = name, value
			given++
		}
	}
	if given != 1 {
		return store.Call{}, invalid("give exactly one of remaining, usage and add")
	}
	amount, err := units(string(field), text, feature)
	if err != nil {
		return store.Call{}, err
	}
	if amount < 0 && field != store.FieldAdd {
		return store.Call{}, invalid("%s must not be negative", field)
	}
	return c.engine.store.BalanceUpdate(c.step(true), c.rules.items, feature.ID, c.BalanceID, field, amount), nil
}
