package wire

import (
	"encoding/json"

	"tollgate/internal/balance"
)

type PreviewRecord struct {
	Scenario    string       `json:"scenario"`
	Title       string       `json:"title"`
	Message     string       `json:"message"`
	FeatureID   string       `json:"feature_id"`
	FeatureName string       `json:"feature_name"`
	Products    []PlanRecord `json:"products"`
}

// PlanRecord is a plan as the catalogue writes it.
type PlanRecord struct {
	ID      string           `json:"id"`
	Name    string           `json:"name"`
	Group   string           `json:"group"`
	Default bool             `json:"default,omitempty"`
	AddOn   bool             `json:"add_on,omitempty"`
	Price   *PlanPriceRecord `json:"price,omitempty"`
	Trial   *TrialRecord     `json:"trial,omitempty"`
	Items   []ItemRecord     `json:"items"`
}

type PlanPriceRecord struct {
	Amount   json.Number `json:"amount"`
	Interval string      `json:"interval"`
	Currency string      `json:"currency"`
}

type TrialRecord struct {
	Days int `json:"days"`
}

type ItemRecord struct {
	FeatureID string              `json:"feature_id"`
	Included  *json.Number        `json:"included,omitempty"`
	Unlimited bool                `json:"unlimited,omitempty"`
	Reset     *ItemResetRecord    `json:"reset,omitempty"`
	Rollover  *ItemRolloverRecord `json:"rollover,omitempty"`
	Price     *ItemPriceRecord    `json:"price,omitempty"`
	PerEntity string              `json:"per_entity,omitempty"`
}

type ItemResetRecord struct {
	Interval      string `json:"interval"`
	IntervalCount int    `json:"interval_count,omitempty"`
}

type ItemRolloverRecord struct {
	Max    json.Number `json:"max"`
	Expiry any         `json:"expiry"` // "never" or {"months": n}
}

func newPreview(catalog *balance.Catalog, preview *balance.Preview) *PreviewRecord {
	if preview == nil {
		return nil
	}
	out := &PreviewRecord{
		Scenario: preview.Scenario, Title: preview.Title, Message: preview.Message,
		FeatureID: preview.FeatureID, FeatureName: preview.Name, Products: []PlanRecord{},
	}
	for _, plan := range preview.Products {
		out.Products = append(out.Products, newPlan(catalog, plan))
	}
	return out
}

func newPlan(catalog *balance.Catalog, plan *balance.Plan) PlanRecord {
	out := PlanRecord{ID: plan.ID, Name: plan.Name, Group: plan.Group, Default: plan.Default, AddOn: plan.AddOn, Items: []ItemRecord{}}
	if plan.Price != nil {
		out.Price = &PlanPriceRecord{json.Number(plan.Price.Amount.String()), string(plan.Price.Interval), plan.Price.Currency}
	}
	if plan.TrialDays > 0 {
		out.Trial = &TrialRecord{plan.TrialDays}
	}
	for i := range plan.Items {
		out.Items = append(out.Items, newItem(catalog.Feature(plan.Items[i].FeatureID), &plan.Items[i]))
	}
	return out
}

func newItem(feature *balance.Feature, item *balance.Item) ItemRecord {
	out := ItemRecord{FeatureID: item.FeatureID, Unlimited: item.Unlimited, PerEntity: item.PerEntity}
	if feature.Type == balance.Boolean {
		return out
	}
	if !item.Unlimited {
		included := number(item.Included, feature.Precision)
		out.Included = &included
	}
	if item.Reset.Interval != balance.NoInterval {
		out.Reset = &ItemResetRecord{Interval: string(item.Reset.Interval)}
		if item.Reset.Count > 1 {
			out.Reset.IntervalCount = item.Reset.Count
		}
	}
	if item.Rollover != nil {
		out.Rollover = &ItemRolloverRecord{Max: number(item.Rollover.Max, feature.Precision), Expiry: "never"}
		if item.Rollover.ExpiryMonths > 0 {
			out.Rollover.Expiry = map[string]int{"months": item.Rollover.ExpiryMonths}
		}
	}
	out.Price = newItemPrice(item.Price, feature.Precision)
	return out
}
