package catalog

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"tollgate/internal/balance"
)

const features = `features:
  - {id: m, name: M, type: metered, precision: 2}
  - {id: seats, type: metered, consumable: false, precision: 0}
  - {id: flag, type: boolean}
  - {id: cr, type: credit_system, credit_schema: [{feature_id: m, credit_cost: 0.5}]}
`

func TestEveryProblemIsNamedAtItsLine(t *testing.T) {
	for _, c := range []struct {
		name, text string
		problems   []string
	}{
		{"not YAML", "features: [", []string{"line 1: "}},
		{"empty", "", []string{"line 1: the catalogue must be one YAML document with features and plans"}},
		{"a list", "- a", []string{"line 1: the catalogue must be a mapping (key: value)"}},
		{"unknown keys", "features:\n  - {id: a, type: boolean, nmae: A}\nplan: []\n", []string{
			`line 3: the catalogue has no key "plan"; it may have features, plans`, `line 2: feature has no key "nmae"`,
		}},
		{"features", "features:\n  - {id: a}\n  - {id: a, type: metred}\n  - {type: boolean, precision: 1}\n  - {id: d, type: boolean, consumable: false}\n", []string{
			`line 2: feature "a": type is missing`, `line 3: feature "a": type must be one of boolean, metered, credit_system`,
			`line 3: feature "a": the id is taken`, "line 4: feature: id is missing", "line 4: feature: a boolean feature has no precision",
			`line 5: feature "d": only a metered feature may say consumable`,
		}},
		{"precision", "features:\n  - {id: a, type: metered, precision: 10}\n  - {id: b, type: metered, precision: 1.5}\n", []string{
			`line 2: feature "a": precision must be a whole number from 0 to 9`, `line 3: feature "b": precision must be a whole number from 0 to 9`,
		}},
		{"credit schema", "features:\n  - {id: m, type: metered, credit_schema: []}\n  - {id: c, type: credit_system}\n  - {id: d, type: credit_system, credit_schema: [{feature_id: c, credit_cost: 0}, {feature_id: m, credit_cost: 1}, {feature_id: m, credit_cost: -1}]}\n", []string{
			`line 2: feature "m": only a credit_system has a credit_schema`, `line 3: feature "c": a credit_system needs a credit_schema`,
			`line 4: feature "d" credit_schema: "c" is not a metered feature`, `line 4: feature "d" credit_schema: credit_cost must be greater than 0`,
			`line 4: feature "d" credit_schema: "m" is covered twice`, `line 4: feature "d" credit_schema: credit_cost must be greater than 0`,
		}},
		{"plans", features + "plans:\n  - {id: p, default: true}\n  - {id: p, default: true}\n  - {id: q, default: true, add_on: true, price: {amount: -1, interval: decade}, trial: {}}\n", []string{
			`line 8: plan "p": the id is taken by another plan`, `line 8: plan "p": group "base" has the default plan "p" already`,
			`line 9: plan "q" price: amount must be 0 or more`, `line 9: plan "q" price: interval must be one of minute, `, `line 9: plan "q" trial: days is missing`,
		}},
		{"items", features + `plans:
  - id: p
    items:
      - {feature_id: nothing}
      - {feature_id: flag, included: 1}
      - {feature_id: m, included: 0.001}
      - {feature_id: seats, reset: {interval: month}}
      - {feature_id: m, rollover: {max: 1, expiry: never}}
      - {feature_id: m, reset: {interval: one_off}, rollover: {max: 1, expiry: {months: 0}}}
      - {feature_id: m, unlimited: true, included: 1}
      - {feature_id: m, per_entity: m}
      - {feature_id: m, price: {amount: 1, billing_method: prepaid, max_purchase: 3, billing_units: 0}}
      - {feature_id: m, price: {billing_method: monthly}}
      - {feature_id: m, included: -1}
`, []string{
			`line 9: plan "p" item "nothing": there is no such feature`, `line 10: plan "p" item "flag": a boolean feature is just named, without included`,
			`line 11: plan "p" item "m": included: more decimals than the feature has (m has precision 2)`,
			`line 12: plan "p" item "seats": "seats" is not consumable, it never resets`, `line 13: plan "p" item "m": a rollover needs a reset`,
			`line 14: plan "p" item "m": a rollover needs a reset`, `line 14: plan "p" item "m" rollover expiry: months must be a whole number from 1`,
			`line 15: plan "p" item "m": unlimited excludes included and price`, `line 16: plan "p" item "m": "m" is not a metered feature with consumable: false`,
			`line 17: plan "p" item "m" price: max_purchase needs billing_method usage_based`, `line 17: plan "p" item "m" price: billing_units must be greater than 0`,
			`line 18: plan "p" item "m" price: amount must be 0 or more`, `line 18: plan "p" item "m" price: billing_method must be one of prepaid, usage_based`,
			`line 19: plan "p" item "m": included must not be negative`,
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := Parse([]byte(c.text))
			var problems Problems
			if !errors.As(err, &problems) {
				t.Fatalf("got %v", err)
			}
			var got []string
			for _, problem := range problems {
				got = append(got, fmt.Sprintf("line %d: %s", problem.Line, problem.Message))
			}
			for _, want := range c.problems {
				at := slices.IndexFunc(got, func(text string) bool { return strings.HasPrefix(text, want) })
				if at < 0 {
					t.Errorf("not named: %s", want)
					continue
				}
				got = slices.Delete(got, at, at+1)
			}
			if len(got) > 0 {
				t.Errorf("named, too:\n%s", strings.Join(got, "\n"))
			}
		})
	}
}

func TestTheExampleIsReadWhole(t *testing.T) {
	c, err := Load("../../deploy/catalog.yaml")
	if err != nil {
		t.Fatal(err)
	}
	pro := c.Plan("pro")
	if pro == nil || pro.TrialDays != 14 || pro.Group != "base" || pro.Price.Amount.String() != "20" || len(pro.Items) != 5 {
		t.Fatalf("got %+v", pro)
	}
	messages, credits := pro.Items[1], pro.Items[2]
	if messages.Included != 100 || messages.Reset != (balance.Reset{Interval: balance.Month, Count: 1}) || *messages.Rollover != (balance.Rollover{Max: 50, ExpiryMonths: 1}) {
		t.Errorf("got %+v", messages)
	}
	if credits.Included != 200_000000 || *credits.Price != (balance.ItemPrice{Amount: balance.Decimal{Digits: "1"}, BillingUnits: 100_000000, Method: balance.UsageBased, MaxPurchase: 500_000000}) {
		t.Errorf("got %+v", credits)
	}
	candidates := c.Candidates("gpt_tokens")
	if len(candidates) != 2 || candidates[1].Feature.ID != "credits" || candidates[1].Cost.String() != "0.002" {
		t.Errorf("got %+v", candidates)
	}
}

func TestItemsOfOneFeatureAreNumbered(t *testing.T) {
	c, err := Parse([]byte(features + "plans:\n  - {id: p, items: [{feature_id: m, included: 1}, {feature_id: seats}, {feature_id: m, included: 2}]}\n"))
	if err != nil {
		t.Fatal(err)
	}
	if item := c.Item("p", "m", 2); item == nil || item.Included != 200 {
		t.Errorf("got %+v", item)
	}
}

// FuzzParse: a catalogue is read, or every problem has a line of it.
func FuzzParse(f *testing.F) {
	example, err := os.ReadFile("../../deploy/catalog.yaml")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(example)
	f.Add([]byte(features + "plans: [{id: p, items: [{feature_id: m, price: {amount: 1e9, billing_method: usage_based}}]}]"))
	f.Add([]byte("features: &a\n  - *a\nplans: !!str 1"))
	f.Fuzz(func(t *testing.T, text []byte) {
		c, err := Parse(text)
		var problems Problems
		switch {
		case err == nil && c == nil:
			t.Fatal("neither a catalogue nor an error")
		case err != nil && !errors.As(err, &problems):
			t.Fatalf("got %v", err)
		case err != nil && len(problems) == 0:
			t.Fatal("not valid, and no problem named")
		}
		for _, problem := range problems {
			if problem.Line < 1 || problem.Message == "" {
				t.Fatalf("problem %+v", problem)
			}
		}
	})
}
