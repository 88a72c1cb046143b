package balance

import (
	"slices"
	"strings"
)

// Preview is what to show to a customer who was denied: why, and which plans help.
type Preview struct {
	Scenario  string // usage_limit or feature_flag
	Title     string
	Message   string
	FeatureID string
	Name      string // of the feature
	Products  []*Plan
}

// NewPreview makes the preview of a denied check. limited says whether the
// customer has a balance of the pool; attached lists the ids of the plans that
// the customer, or the entity asked for, has (semantics: Preview).
func (c *Catalog) NewPreview(feature *Feature, limited bool, attached []string) *Preview {
	main, addOns := c.helpful(feature, attached)
	preview := &Preview{
		Scenario: "feature_flag", FeatureID: feature.ID, Name: feature.Name,
		Products: slices.Concat(main, addOns),
	}
	what := feature.Name + " is not included in the current plan."
	if limited {
		preview.Scenario = "usage_limit"
		what = "The limit for " + feature.Name + " has been reached."
	}
	switch {
	case len(main) > 0 && main[0].TrialDays > 0:
		preview.Title = "Start a trial of " + main[0].Name
	case len(main) > 0:
		preview.Title = "Upgrade to " + main[0].Name
	case len(addOns) > 0:
		preview.Title = "Purchase " + addOns[0].Name
	default:
		preview.Title = feature.Name + " is unavailable"
	}
	preview.Message = what + " " + remedy(feature, main, addOns)
	return preview
}

func remedy(feature *Feature, main, addOns []*Plan) string {
	switch {
	case len(main) > 0 && len(addOns) > 0:
		return "Upgrade to " + namesOf(main) + ", or purchase " + namesOf(addOns) + ", to use more " + feature.Name + "."
	case len(main) > 0:
		return "Upgrade to " + namesOf(main) + " to use more " + feature.Name + "."
	case len(addOns) > 0:
		return "Purchase " + namesOf(addOns) + " to use more " + feature.Name + "."
	}
	return "Please get in touch to get access."
}

func namesOf(plans []*Plan) string {
	names := make([]string, len(plans))
	for i, plan := range plans {
		names[i] = plan.Name
	}
	if len(names) == 1 {
		return names[0]
	}
	return strings.Join(names[:len(names)-1], ", ") + " or " + names[len(names)-1]
}

// helpful lists the main plans and the add-ons that would help, cheapest first.
func (c *Catalog) helpful(feature *Feature, attached []string) (main, addOns []*Plan) {
	current := map[string]*Plan{} // by group
	for _, id := range attached {
		if plan := c.plans[id]; plan != nil && !plan.AddOn {
			current[plan.Group] = plan
		}
	}
	for i := range c.Plans {
		plan := &c.Plans[i]
		has := slices.Contains(attached, plan.ID)
		switch {
		case !c.helps(plan, feature):
		case plan.AddOn:
			if !has || plan.IsOneOffAddOn() {
				addOns = append(addOns, plan)
			}
		case has:
		case current[plan.Group] == nil || plan.MonthlyCost().Cmp(current[plan.Group].MonthlyCost()) > 0:
			main = append(main, plan)
		}
	}
	cheapestFirst := func(a, b *Plan) int { return a.MonthlyCost().Cmp(b.MonthlyCost()) }
	slices.SortStableFunc(main, cheapestFirst)
	slices.SortStableFunc(addOns, cheapestFirst)
	return main, addOns
}

func (c *Catalog) helps(plan *Plan, feature *Feature) bool {
	for i := range plan.Items {
		for _, candidate := range c.candidates[feature.ID] {
			if plan.Items[i].FeatureID == candidate.Feature.ID {
				return true
			}
		}
	}
	return false
}
