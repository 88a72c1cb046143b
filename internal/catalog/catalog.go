// Package catalog reads the catalogue file: YAML to domain, with every problem
// named at its line.
package catalog

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"

	"tollgate/internal/balance"
)

const maxIDBytes = 256

// Load reads and validates a catalogue file. A catalogue that is not valid fails
// with Problems.
func Load(path string) (*balance.Catalog, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read catalogue: %w", err)
	}
	c, err := Parse(text)
	if err != nil {
		return nil, fmt.Errorf("catalogue %s is not valid:\n%w", path, err)
	}
	return c, nil
}

// Parse validates a catalogue. It fails with Problems.
func Parse(text []byte) (*balance.Catalog, error) {
	file, err := parser.ParseBytes(text, 0)
	if err != nil {
		return nil, syntaxProblem(err)
	}
	r := &reader{}
	if len(file.Docs) != 1 || file.Docs[0].Body == nil {
		r.problem(nil, "the catalogue must be one YAML document with features and plans")
		return nil, r.problems
	}
	features, plans := r.catalog(file.Docs[0].Body)
	if len(r.problems) > 0 {
		return nil, r.problems
	}
	return balance.NewCatalog(versionOf(text), features, plans), nil
}

// versionOf names the content of a catalogue file.
func versionOf(text []byte) string {
	digest := sha256.Sum256(text)
	return hex.EncodeToString(digest[:6])
}

func syntaxProblem(err error) Problems {
	var syntax *yaml.SyntaxError
	if errors.As(err, &syntax) {
		return Problems{{syntax.Token.Position.Line, syntax.Message}}
	}
	return Problems{{1, err.Error()}}
}

func (r *reader) catalog(root ast.Node) ([]balance.Feature, []balance.Plan) {
	top := r.mapping(root, "the catalogue", "features", "plans")
	var features []balance.Feature
	byID := map[string]*balance.Feature{}
	nodes := top.list("features")
	features = make([]balance.Feature, 0, len(nodes)) // never grows: byID points into it
	var schemas []func()
	for _, node := range nodes {
		feature, f := r.feature(node)
		if byID[feature.ID] != nil {
			f.problem("id", "the id is taken by another feature")
		}
		features = append(features, feature)
		added := &features[len(features)-1]
		byID[feature.ID] = added
		schemas = append(schemas, func() { added.CreditSchema = r.creditSchema(f, added, byID) })
	}
	for _, read := range schemas {
		read()
	}
	return features, r.plans(top.list("plans"), byID)
}

func (r *reader) feature(node ast.Node) (balance.Feature, fields) {
	f := r.mapping(node, "feature", "id", "name", "type", "consumable", "precision", "event_name", "credit_schema")
	feature := balance.Feature{ID: r.id(&f, "feature")}
	feature.Name = f.text("name")
	if feature.Name == "" {
		feature.Name = feature.ID
	}
	feature.Type = balance.FeatureType(f.oneOf("type", string(balance.Boolean), string(balance.Metered), string(balance.CreditSystem)))
	if !f.has("type") {
		f.problem("type", "type is missing; it is boolean, metered or credit_system")
	}
	feature.Consumable = f.boolean("consumable", true)
	if f.has("consumable") && feature.Type != balance.Metered {
		f.problem("consumable", "only a metered feature may say consumable")
	}
	feature.Precision = f.whole("precision", 0, balance.MaxPrecision, 6)
	feature.EventName = f.text("event_name")
	for _, key := range []string{"precision", "event_name"} {
		if feature.Type == balance.Boolean && f.has(key) {
			f.problem(key, "a boolean feature has no %s", key)
		}
	}
	return feature, f
}

// id reads an id, and names the mapping after it in messages to come.
func (r *reader) id(f *fields, kind string) string {
	id := f.required("id")
	if len(id) > maxIDBytes {
		f.problem("id", "the id is longer than %d bytes", maxIDBytes)
	}
	if id != "" {
		f.where = fmt.Sprintf("%s %q", kind, id)
	}
	return id
}

func (r *reader) creditSchema(f fields, feature *balance.Feature, byID map[string]*balance.Feature) []balance.CreditCost {
	if feature.Type != balance.CreditSystem {
		if f.has("credit_schema") {
			f.problem("credit_schema", "only a credit_system has a credit_schema")
		}
		return nil
	}
	if len(f.list("credit_schema")) == 0 {
		f.problem("credit_schema", "a credit_system needs a credit_schema: a list of feature_id and credit_cost")
	}
	var costs []balance.CreditCost
	seen := map[string]bool{}
	for _, node := range f.list("credit_schema") {
		line := r.mapping(node, f.where+" credit_schema", "feature_id", "credit_cost")
		id := line.required("feature_id")
		if covered := byID[id]; id != "" && (covered == nil || covered.Type != balance.Metered) {
			line.problem("feature_id", "%q is not a metered feature", id)
		}
		if seen[id] {
			line.problem("feature_id", "%q is covered twice", id)
		}
		seen[id] = true
		cost, ok := line.decimal("credit_cost")
		if !line.has("credit_cost") || (ok && !cost.Positive()) {
			line.problem("credit_cost", "credit_cost must be greater than 0")
		}
		costs = append(costs, balance.CreditCost{FeatureID: id, Cost: cost})
	}
	return costs
}

func (r *reader) plans(nodes []ast.Node, features map[string]*balance.Feature) []balance.Plan {
	var plans []balance.Plan
	seen := map[string]bool{}
	defaults := map[string]string{} // by group
	for _, node := range nodes {
		plan, f := r.plan(node, features)
		if seen[plan.ID] {
			f.problem("id", "the id is taken by another plan")
		}
		seen[plan.ID] = true
		if plan.Default && !plan.AddOn {
			if other, taken := defaults[plan.Group]; taken {
				f.problem("default", "group %q has the default plan %q already", plan.Group, other)
			}
			defaults[plan.Group] = plan.ID
		}
		plans = append(plans, plan)
	}
	return plans
}

func (r *reader) plan(node ast.Node, features map[string]*balance.Feature) (balance.Plan, fields) {
	f := r.mapping(node, "plan", "id", "name", "group", "default", "add_on", "price", "trial", "items")
	plan := balance.Plan{ID: r.id(&f, "plan"), Group: "base"}
	plan.Name = f.text("name")
	if plan.Name == "" {
		plan.Name = plan.ID
	}
	if f.has("group") {
		plan.Group = f.required("group")
	}
	plan.Default, plan.AddOn = f.boolean("default", false), f.boolean("add_on", false)
	if f.has("price") {
		plan.Price = r.planPrice(f)
	}
	if f.has("trial") {
		trial := r.mapping(f.at("trial"), f.where+" trial", "days")
		plan.TrialDays = trial.whole("days", 1, 3650, 0)
		if !trial.has("days") {
			trial.problem("days", "days is missing")
		}
	}
	numbers := map[string]int{}
	for _, node := range f.list("items") {
		item := r.item(node, f.where, features)
		numbers[item.FeatureID]++
		item.Number = numbers[item.FeatureID]
		plan.Items = append(plan.Items, item)
	}
	return plan, f
}

func intervalNames() []string {
	var names []string
	for _, interval := range balance.Intervals[1:] {
		names = append(names, string(interval))
	}
	return names
}

func (r *reader) planPrice(f fields) *balance.PlanPrice {
	p := r.mapping(f.at("price"), f.where+" price", "amount", "interval", "currency")
	price := &balance.PlanPrice{Interval: balance.Month, Currency: "usd"}
	amount, ok := p.decimal("amount")
	if !p.has("amount") || (ok && amount.Negative) {
		p.problem("amount", "amount must be 0 or more")
	}
	price.Amount = amount
	if p.has("interval") {
		price.Interval = balance.Interval(p.oneOf("interval", intervalNames()...))
	}
	if p.has("currency") {
		price.Currency = p.required("currency")
	}
	return price
}

func (r *reader) item(node ast.Node, plan string, features map[string]*balance.Feature) balance.Item {
	f := r.mapping(node, plan+" item", "feature_id", "included", "unlimited", "reset", "rollover", "price", "per_entity")
	item := balance.Item{FeatureID: f.required("feature_id"), Reset: balance.Reset{Count: 1}}
	if item.FeatureID == "" {
		return item
	}
	f.where = fmt.Sprintf("%s item %q", plan, item.FeatureID)
	feature := features[item.FeatureID]
	if feature == nil {
		f.problem("feature_id", "there is no such feature")
		return item
	}
	if feature.Type == balance.Boolean {
		for _, key := range []string{"included", "unlimited", "reset", "rollover", "price", "per_entity"} {
			if f.has(key) {
				f.problem(key, "a boolean feature is just named, without %s", key)
			}
		}
		return item
	}
	item.Included = f.units("included", feature)
	item.Unlimited = f.boolean("unlimited", false)
	if f.has("reset") {
		item.Reset = r.reset(f, feature)
	}
	if f.has("rollover") {
		item.Rollover = r.rollover(f, feature)
		if item.Reset.Interval == balance.NoInterval || item.Reset.Interval == balance.OneOff {
			f.problem("rollover", "a rollover needs a reset")
		}
	}
	if f.has("price") {
		item.Price = r.itemPrice(f, feature)
	}
	if item.Unlimited && (f.has("included") || f.has("price")) {
		f.problem("unlimited", "unlimited excludes included and price")
	}
	item.PerEntity = f.text("per_entity")
	if seats := features[item.PerEntity]; f.has("per_entity") && (seats == nil || seats.Type != balance.Metered || seats.Consumable) {
		f.problem("per_entity", "%q is not a metered feature with consumable: false", item.PerEntity)
	}
	return item
}

func (r *reader) reset(f fields, feature *balance.Feature) balance.Reset {
	m := r.mapping(f.at("reset"), f.where+" reset", "interval", "interval_count")
	reset := balance.Reset{
		Interval: balance.Interval(m.oneOf("interval", intervalNames()...)),
		Count:    m.whole("interval_count", 1, 1000, 1),
	}
	if !m.has("interval") {
		m.problem("interval", "interval is missing")
	}
	if !feature.Consumable {
		f.problem("reset", "%q is not consumable, it never resets", feature.ID)
	}
	return reset
}

func (r *reader) rollover(f fields, feature *balance.Feature) *balance.Rollover {
	m := r.mapping(f.at("rollover"), f.where+" rollover", "max", "expiry")
	rollover := &balance.Rollover{Max: m.units("max", feature)}
	if !m.has("max") {
		m.problem("max", "max is missing")
	}
	switch expiry := m.byKey["expiry"].(type) {
	case nil:
		m.problem("expiry", "expiry is missing: {months: n} or never")
	case *ast.StringNode:
		m.oneOf("expiry", "never")
	default:
		e := r.mapping(expiry, m.where+" expiry", "months")
		rollover.ExpiryMonths = e.whole("months", 1, 1200, 0)
		if !e.has("months") {
			e.problem("months", "months is missing")
		}
	}
	return rollover
}

func (r *reader) itemPrice(f fields, feature *balance.Feature) *balance.ItemPrice {
	m := r.mapping(f.at("price"), f.where+" price", "amount", "billing_units", "billing_method", "max_purchase")
	price := &balance.ItemPrice{MaxPurchase: balance.Unbounded}
	amount, ok := m.decimal("amount")
	if !m.has("amount") || (ok && amount.Negative) {
		m.problem("amount", "amount must be 0 or more")
	}
	price.Amount = amount
	price.Method = balance.BillingMethod(m.oneOf("billing_method", string(balance.Prepaid), string(balance.UsageBased)))
	if !m.has("billing_method") {
		m.problem("billing_method", "billing_method is missing: prepaid or usage_based")
	}
	price.BillingUnits, _ = balance.Decimal{Digits: "1"}.Units(feature.Precision)
	if m.has("billing_units") {
		price.BillingUnits = m.units("billing_units", feature)
		if price.BillingUnits == 0 {
			m.problem("billing_units", "billing_units must be greater than 0")
		}
	}
	if m.has("max_purchase") {
		price.MaxPurchase = m.units("max_purchase", feature)
		if price.Method == balance.Prepaid {
			m.problem("max_purchase", "max_purchase needs billing_method usage_based")
		}
	}
	return price
}
