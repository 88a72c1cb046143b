// Package balance is the domain: features, plans, balances and decisions, and
// amounts that never round. It is pure: no I/O, and it imports nothing of the
// project.
package balance

import "math/big"

// FeatureType says what kind of thing is checked.
type FeatureType string

// The feature types of a catalogue.
const (
	Boolean      FeatureType = "boolean"
	Metered      FeatureType = "metered"
	CreditSystem FeatureType = "credit_system"
)

// Feature is something that a customer may use.
type Feature struct {
	ID        string
	Name      string
	Type      FeatureType
	EventName string // the usage event's type, "" for the feature's id
	// Consumable is false for what is occupied rather than used up (seats): it
	// never resets.
	Consumable bool
	// Precision is the number of decimal places, 0 to MaxPrecision.
	Precision int
	// CreditSchema holds what a credit system covers, and at what cost.
	CreditSchema []CreditCost
}

// EventType is the CloudEvents type of the feature's usage events.
func (f *Feature) EventType() string {
	if f.EventName != "" {
		return f.EventName
	}
	return f.ID
}

// IsSeatLike says whether the feature is occupied rather than used up: entities take it, and its usage outlives a plan.
func (f *Feature) IsSeatLike() bool { return f.Type == Metered && !f.Consumable }

// CreditCost is the cost of one whole unit of a feature in credits.
type CreditCost struct {
	FeatureID string
	Cost      Decimal
}

// Interval is the unit of a period.
type Interval string

// The intervals, in the order of their numbers in the store. NoInterval is the
// absence of a reset; OneOff says outright that there is none.
const (
	NoInterval Interval = ""
	Minute     Interval = "minute"
	Hour       Interval = "hour"
	Day        Interval = "day"
	Week       Interval = "week"
	Month      Interval = "month"
	Quarter    Interval = "quarter"
	SemiAnnual Interval = "semi_annual"
	Year       Interval = "year"
	OneOff     Interval = "one_off"
)

// Intervals lists all intervals; the place of one is its number in the store.
var Intervals = []Interval{NoInterval, Minute, Hour, Day, Week, Month, Quarter, SemiAnnual, Year, OneOff}

// Reset says how often a balance starts afresh.
type Reset struct {
	Interval Interval
	Count    int // intervals in a period, at least 1
}

// Rollover says how much of what is left at a reset lives on.
type Rollover struct {
	Max          int64 // units, over all rollovers of the balance together
	ExpiryMonths int   // 0: never
}

// BillingMethod says how units beyond what is included are paid for.
type BillingMethod string

// The billing methods of an item.
const (
	Prepaid    BillingMethod = "prepaid"
	UsageBased BillingMethod = "usage_based"
)

// ItemPrice is the price of units beyond what is included.
type ItemPrice struct {
	Amount       Decimal
	BillingUnits int64 // units that Amount pays for; quantities are rounded up to them
	Method       BillingMethod
	MaxPurchase  int64 // units of overage at the most, Unbounded for no bound
}

// Unbounded stands for "no maximum".
const Unbounded int64 = -1

// Item is what a plan includes of one feature.
type Item struct {
	FeatureID string
	// Number counts the plan's items of the same feature, from 1.
	Number    int
	Included  int64 // units
	Unlimited bool
	Reset     Reset
	Rollover  *Rollover
	Price     *ItemPrice
	// PerEntity names the seat-like feature of which every entity gets a
	// balance of its own, "" for an ordinary item.
	PerEntity string
}

// Overage says whether the item may be used beyond what is granted, and how far.
func (i *Item) Overage() (allowed bool, maxPurchase int64) {
	if i.Price == nil || i.Price.Method != UsageBased {
		return false, Unbounded
	}
	return true, i.Price.MaxPurchase
}

// PlanPrice is what a plan costs as a whole.
type PlanPrice struct {
	Amount   Decimal
	Interval Interval
	Currency string
}

// Plan is a named bundle of items.
type Plan struct {
	ID        string
	Name      string
	Group     string
	Default   bool
	AddOn     bool
	Price     *PlanPrice
	TrialDays int
	Items     []Item
}

// IsOneOffAddOn says whether attaching the plan again adds its grants again.
func (p *Plan) IsOneOffAddOn() bool {
	return p.AddOn && p.Price != nil && p.Price.Interval == OneOff
}

// Average lengths of the intervals that a price can have, in seconds.
var averageSeconds = map[Interval]int64{
	Minute: 60, Hour: 3600, Day: 86400, Week: 604800,
	Month: 2629746, Quarter: 3 * 2629746, SemiAnnual: 6 * 2629746, Year: 12 * 2629746,
}

// MonthlyCost is the plan's price per average month, which prices compare by
// (semantics: Preview). A one-off price counts as it is; no price is zero.
func (p *Plan) MonthlyCost() *big.Rat {
	cost := new(big.Rat)
	if p.Price == nil {
		return cost
	}
	cost.SetString(p.Price.Amount.String())
	if seconds, ok := averageSeconds[p.Price.Interval]; ok {
		cost.Mul(cost, big.NewRat(averageSeconds[Month], seconds))
	}
	return cost
}

// Candidate is a pool that a check of a feature may draw from.
type Candidate struct {
	Feature *Feature
	Cost    Decimal // of one whole unit of the feature checked; 1 for the feature itself
	// Factor is the cost of one unit of 10^-precision in such units of the credit system, as <digits>e<exponent>; "" for
	// the feature itself.
	Factor string
}

// Catalog is a validated catalogue. It never changes once made.
type Catalog struct {
	Version  string // a digest of the file
	Features []Feature
	Plans    []Plan

	features   map[string]*Feature
	retired    map[string]*Feature
	plans      map[string]*Plan
	candidates map[string][]Candidate
	byEvent    map[string][]*Feature
}

var one = Decimal{Digits: "1"}

// NewCatalog makes a catalogue of features and plans that are known to be valid.
func NewCatalog(version string, features []Feature, plans []Plan) *Catalog {
	c := &Catalog{
		Version: version, Features: features, Plans: plans,
		features:   make(map[string]*Feature, len(features)),
		plans:      make(map[string]*Plan, len(plans)),
		candidates: make(map[string][]Candidate, len(features)),
		byEvent:    make(map[string][]*Feature),
	}
	for i := range features {
		f := &features[i]
		c.features[f.ID] = f
		c.candidates[f.ID] = []Candidate{{Feature: f, Cost: one}}
		if f.EventName != "" {
			c.byEvent[f.EventName] = append(c.byEvent[f.EventName], f)
		}
	}
	for i := range features {
		for _, cost := range features[i].CreditSchema {
			c.candidates[cost.FeatureID] = append(c.candidates[cost.FeatureID], Candidate{
				Feature: &features[i], Cost: cost.Cost, Factor: Factor(c.features[cost.FeatureID].Precision, cost.Cost, features[i].Precision),
			})
		}
	}
	for i := range plans {
		c.plans[plans[i].ID] = &plans[i]
	}
	return c
}

// Feature finds a feature by id, nil where there is none.
func (c *Catalog) Feature(id string) *Feature { return c.features[id] }

// WithRetired is the catalogue, knowing features that it has no longer: their
// balances live on and must be shown with the right precision.
func (c *Catalog) WithRetired(features []Feature) *Catalog {
	known := *c
	known.retired = make(map[string]*Feature, len(features))
	for i := range features {
		known.retired[features[i].ID] = &features[i]
	}
	return &known
}

// Known finds a feature by id among those of the catalogue and the retired; one that
// never was is taken for one of whole numbers.
func (c *Catalog) Known(id string) *Feature {
	if feature := c.features[id]; feature != nil {
		return feature
	}
	if feature := c.retired[id]; feature != nil {
		return feature
	}
	return &Feature{ID: id, Name: id, Type: Metered}
}

// Plan finds a plan by id, nil where there is none.
func (c *Catalog) Plan(id string) *Plan { return c.plans[id] }

// Candidates lists the pools that a check of the feature may draw from: its own,
// then the credit systems that cover it, in the catalogue's order (semantics:
// Which pool).
func (c *Catalog) Candidates(featureID string) []Candidate { return c.candidates[featureID] }

// FeaturesByEvent lists the features that bear an event name.
func (c *Catalog) FeaturesByEvent(name string) []*Feature { return c.byEvent[name] }

// Item finds a plan's item by feature and number, nil where there is none.
func (c *Catalog) Item(planID, featureID string, number int) *Item {
	plan := c.plans[planID]
	if plan == nil {
		return nil
	}
	for i := range plan.Items {
		if plan.Items[i].FeatureID == featureID && plan.Items[i].Number == number {
			return &plan.Items[i]
		}
	}
	return nil
}

// IsPrepaid says whether the item adds the units bought to what is granted.
func (i *Item) IsPrepaid() bool { return i.Price != nil && i.Price.Method == Prepaid }
