package oracle

import (
	"encoding/json"
	"errors"
	"slices"

	"github.com/segmentio/kafka-go"
	"pgregory.net/rapid"

	"tollgate/internal/balance"
	"tollgate/internal/wire"
)

// result is what both kinds of result can hold.
type result struct {
	wire.ResultRecord
	OK       *bool                       `json:"ok"`
	Type     string                      `json:"type"`
	Balances map[string]*wire.PoolRecord `json:"balances"`
	EventIDs []string                    `json:"usage_event_ids"`
	Plans    []struct {
		PlanID   string  `json:"plan_id"`
		EntityID *string `json:"entity_id"`
	} `json:"plans"`
	Entities []struct {
		EntityID string                      `json:"entity_id"`
		Balances map[string]*wire.PoolRecord `json:"balances"`
	} `json:"entities"`
	Flags       map[string]*wire.FlagRecord `json:"flags"`
	EntityCount int                         `json:"entity_count"`
	Lock        *wire.LockRecord            `json:"lock"` // of a check without some of its fields
	Locks       []wire.LockRecord           `json:"locks"`
	Value       json.Number                 `json:"value"`
	Forfeited   []wire.ForfeitRecord        `json:"forfeited"`
}

func decode(t *rapid.T, record kafka.Message, into any) {
	if err := json.Unmarshal(record.Value, into); err != nil {
		t.Fatalf("%v: %s", err, record.Value)
	}
}

// read makes the answer of the records that a request led to.
func read(t *rapid.T, records []kafka.Message) answer {
	var r result
	decode(t, records[0], &r)
	a := answer{At: r.EvaluatedAt, EventIDs: r.EventIDs, Lock: r.Lock}
	if a.EventIDs == nil && r.UsageEventID != "" {
		a.EventIDs = []string{r.UsageEventID}
	}
	if r.OK == nil {
		readCheck(t, &r, &a)
	} else {
		readCommand(&r, &a)
	}
	for _, record := range records[1:] {
		a.Events = append(a.Events, readEvent(t, record))
	}
	return a
}

func readCheck(t *rapid.T, r *result, a *answer) {
	a.Code, a.Feature, a.Entity, a.Pool = r.Code, r.FeatureID, text(r.EntityID), priceless(r.Balance)
	if len(r.Draws) > 0 {
		a.Draws = r.Draws
	}
	if r.Balances != nil {
		a.Both = pricelessAll(r.Balances)
	}
	if r.RequiredBalance != nil {
		a.Need = *r.RequiredBalance
	}
	if r.Flag != nil {
		a.Flag = r.Flag.PlanID
	}
	if r.Allowed != r.Code.Allowed() || (r.Error != nil) != r.Code.IsError() {
		t.Fatalf("code %s goes with neither allowed %t nor error %v", r.Code, r.Allowed, r.Error)
	}
	if r.Preview != nil {
		a.Scenario, a.Products = r.Preview.Scenario, []string{}
		for _, product := range r.Preview.Products {
			a.Products = append(a.Products, product.ID)
		}
	}
}

func readCommand(r *result, a *answer) {
	a.Pools = pricelessAll(r.Balances)
	if r.Error != nil {
		a.Code = r.Error.Code
	}
	if r.Type == "lock.finalize" && r.Error == nil {
		a.Value, a.Draws, a.Forfeited = r.Value, r.Draws, r.Forfeited
	}
	if r.Plans == nil {
		return
	}
	a.Locks = r.Locks
	a.Plans, a.Flags, a.Entities = []string{}, map[string]string{}, map[string]map[string]*wire.PoolRecord{}
	for _, plan := range r.Plans {
		a.Plans = append(a.Plans, plan.PlanID+"@"+text(plan.EntityID))
	}
	slices.Sort(a.Plans)
	for feature, flag := range r.Flags {
		a.Flags[feature] = flag.PlanID
	}
	a.EntityCount = r.EntityCount
	for _, entity := range r.Entities {
		a.Entities[entity.EntityID] = pricelessAll(entity.Balances)
	}
}

func readEvent(t *rapid.T, record kafka.Message) event {
	var e wire.EventRecord
	decode(t, record, &e)
	// The deductions of a pool add up to what was drawn from it.
	sums := map[string]int64{}
	fits := true
	add := func(feature string, amount json.Number, sign int64) {
		n, err := balance.ParseUnits(string(amount), balance.MaxPrecision-6)
		if err != nil && !errors.Is(err, balance.ErrOutOfRange) {
			t.Fatal(err)
		}
		fits = fits && err == nil
		sums[feature] += sign * n
	}
	for _, d := range e.Data.Deductions {
		add(d.FeatureID, d.Amount, 1)
	}
	for _, d := range e.Data.Draws {
		add(d.FeatureID, d.Value, -1)
	}
	for feature, sum := range sums {
		if fits && sum != 0 {
			t.Fatalf("the deductions of %s do not add up: %s", feature, record.Value)
		}
	}
	return event{
		ID: e.ID, Entity: text(e.Data.EntityID), Feature: e.Data.FeatureID, Value: e.Data.Value,
		Draws: e.Data.Draws, Properties: string(e.Data.Properties), Deductions: e.Data.Deductions,
		LockID: e.Data.LockID,
	}
}

func text(s *string) string {
	if s == nil {
		return ""
	}
	return *s
}

// priceless leaves the prices out: they are the catalogue's, not the balances'.
func priceless(p *wire.PoolRecord) *wire.PoolRecord {
	if p != nil {
		for i := range p.Breakdown {
			p.Breakdown[i].Price = nil
		}
	}
	return p
}

func pricelessAll(pools map[string]*wire.PoolRecord) map[string]*wire.PoolRecord {
	for _, p := range pools {
		priceless(p)
	}
	return pools
}
