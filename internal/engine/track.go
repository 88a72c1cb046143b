package engine

import (
	"slices"

	"tollgate/internal/balance"
	"tollgate/internal/store"
	"tollgate/internal/wire"
)

var overageBehaviors = []string{"cap", "reject", "allow"}

func (c *command) usageTrack() (store.Call, *balance.Error) {
	features, err := c.trackedFeatures()
	if err != nil {
		return store.Call{}, err
	}
	behavior := c.OverageBehavior
	if behavior == "" {
		behavior = overageBehaviors[0]
	}
	if !slices.Contains(overageBehaviors, behavior) {
		return store.Call{}, invalid("overage_behavior must be one of %v", overageBehaviors)
	}
	value := c.Value
	if value == "" {
		value = "1"
	}
	var all [][]store.Need
	for _, feature := range features {
		n, err := units("value", value, feature)
		if err != nil {
			return store.Call{}, err
		}
		all = append(all, needs(c.rules.catalog, feature, n))
	}
	return c.engine.store.Track(c.step(true), c.rules.items, behavior, all), nil
}

// trackedFeatures are the feature named, or all that bear the event name.
func (c *command) trackedFeatures() ([]*balance.Feature, *balance.Error) {
	if (c.FeatureID == "") == (c.EventName == "") {
		return nil, invalid("give either feature_id or event_name")
	}
	if c.EventName != "" {
		features := c.rules.catalog.FeaturesByEvent(c.EventName)
		if len(features) == 0 {
			return nil, &balance.Error{Code: balance.FeatureNotFound, Message: "no feature of the catalogue bears this event_name"}
		}
		return features, nil
	}
	feature := c.rules.catalog.Feature(c.FeatureID)
	switch {
	case feature == nil:
		return nil, balance.NewError(balance.FeatureNotFound)
	case feature.Type == balance.Boolean:
		return nil, balance.NewError(balance.FlagNotConsumable)
	}
	return []*balance.Feature{feature}, nil
}

// trackedFields tell what was asked and what was applied; by feature where an
// event name stands for several.
func (c *command) trackedFields(outcome *store.CommandOutcome) map[string]any {
	var all []map[string]any
	for i := range outcome.Events {
		usage := &outcome.Events[i]
		fields := map[string]any{
			"feature_id": usage.FeatureID, "value": wire.Amount(usage.Units, c.rules.catalog.Known(usage.FeatureID).Precision),
			"draws": wire.DrawFields(c.rules.catalog, usage.Draws),
		}
		if usage.Code != "" {
			fields["code"] = usage.Code
		}
		all = append(all, fields)
	}
	if len(all) == 1 {
		return all[0]
	}
	return map[string]any{"features": all}
}
