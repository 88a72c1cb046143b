package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"

	"github.com/jedib0t/go-pretty/v6/table"

	"tollgate/internal/balance"
	"tollgate/internal/client"
	"tollgate/internal/terminal"
	"tollgate/internal/wire"
)

// demo sends requests as any user would, through Kafka.
type demo struct {
	client *client.Client
	topics wire.Topics
	paint  terminal.Paint
}

// demoCommands make the demo customers: acme on Pro, globex on Enterprise, initech on
// what every new customer gets.
var demoCommands = []string{
	`{"type": "customer.put", "customer_id": "acme", "name": "Acme Inc."}`,
	`{"type": "plan.attach", "customer_id": "acme", "plan_id": "pro"}`,
	`{"type": "entity.create", "customer_id": "acme", "entity_id": "ada", "feature_id": "seats", "name": "Ada"}`,
	`{"type": "balance.grant", "customer_id": "acme", "feature_id": "messages", "entity_id": "ada", "amount": 10, "balance_id": "welcome"}`,
	`{"type": "customer.put", "customer_id": "globex", "name": "Globex"}`,
	`{"type": "plan.attach", "customer_id": "globex", "plan_id": "enterprise"}`,
	`{"type": "customer.put", "customer_id": "initech", "name": "Initech"}`,
}

// demoChecks are what the demo asks, in this order, and what must come of it.
var demoChecks = []struct {
	what, request string
	want          balance.Code
}{
	{"is it in the plan?", `{"customer_id": "acme", "feature_id": "sso"}`, balance.Flagged},
	{"two messages, sent", `{"customer_id": "acme", "feature_id": "messages", "required_balance": 2, "send_event": true}`, balance.Included},
	{"twelve, by a seat", `{"customer_id": "acme", "entity_id": "ada", "feature_id": "messages", "required_balance": 12, "send_event": true}`, balance.Included},
	{"tokens, paid in credits", `{"customer_id": "acme", "feature_id": "gpt_tokens", "required_balance": 1500, "send_event": true}`, balance.Included},
	{"more credits than granted", `{"customer_id": "acme", "feature_id": "credits", "required_balance": 300, "send_event": true}`, balance.Overage},
	{"more than can be bought", `{"customer_id": "acme", "feature_id": "credits", "required_balance": 500, "send_event": true}`, balance.MaxPurchaseReached},
	{"a million, unlimited", `{"customer_id": "globex", "feature_id": "messages", "required_balance": 1000000, "send_event": true}`, balance.Unlimited},
	{"all of a free plan", `{"customer_id": "initech", "feature_id": "messages", "required_balance": 5, "send_event": true}`, balance.Included},
	{"one too many", `{"customer_id": "initech", "feature_id": "messages", "send_event": true, "with_preview": true}`, balance.InsufficientFunds},
	{"not in the plan", `{"customer_id": "initech", "feature_id": "images"}`, balance.NotEntitled},
	{"who is that?", `{"customer_id": "hooli", "feature_id": "messages"}`, balance.CustomerNotFound},
}

func (d *demo) ask(ctx context.Context, topic, resultTopic, request string) (client.Answer, error) {
	var of struct {
		CustomerID string `json:"customer_id"`
	}
	if err := json.Unmarshal([]byte(request), &of); err != nil {
		return client.Answer{}, err
	}
	return d.client.Ask(ctx, client.Request{
		Topic: topic, CustomerID: of.CustomerID, Value: []byte(request), Headers: header("demo-" + client.NewRequestID()),
	}, resultTopic)
}

func (d *demo) seed(ctx context.Context) error {
	for _, command := range demoCommands {
		answer, err := d.ask(ctx, d.topics.Commands, d.topics.CommandResults, command)
		if err != nil {
			return err
		}
		var result struct{ OK bool }
		if err := json.Unmarshal(answer.Record.Value, &result); err != nil || !result.OK {
			return fmt.Errorf("%w to %s: %s", errUnexpected, command, answer.Record.Value)
		}
	}
	return nil
}

// run shows the decisions and says how many were not the expected ones.
func (d *demo) run(ctx context.Context) (unexpected int, err error) {
	t := terminal.NewTable(os.Stdout, table.Row{"customer", "feature", "", "needs", "decision", "code", "remaining", "took"})
	var offer *wire.PreviewRecord
	for _, check := range demoChecks {
		answer, err := d.ask(ctx, d.topics.Checks, d.topics.CheckResults, check.request)
		if err != nil {
			return unexpected, err
		}
		var result wire.ResultRecord
		if err := json.Unmarshal(answer.Record.Value, &result); err != nil {
			return unexpected, fmt.Errorf("%w: %s", errUnexpected, answer.Record.Value)
		}
		decision := d.paint.Bad("denied")
		if result.Allowed {
			decision = d.paint.Good("allowed")
		}
		code := string(result.Code)
		if result.Code != check.want {
			unexpected++
			code += d.paint.Bad(" (expected " + string(check.want) + ")")
		}
		remaining, needs := "", ""
		if result.Balance != nil {
			remaining = string(result.Balance.Remaining) + " " + result.Balance.FeatureID
			if result.Balance.Unlimited {
				remaining = "unlimited"
			}
		}
		if result.RequiredBalance != nil && result.Flag == nil {
			needs = string(*result.RequiredBalance)
		}
		if result.Preview != nil {
			offer = result.Preview
		}
		t.AppendRow(table.Row{
			result.CustomerID, result.FeatureID, d.paint.Faint(check.what), needs, decision, code, remaining,
			fmt.Sprintf("%.1f ms", float64(answer.Took.Microseconds())/1000),
		})
	}
	t.Render()
	if offer != nil {
		fmt.Printf("\nWith the denial of one too many came an offer: %s %s\n", d.paint.Strong(offer.Title+"."), offer.Message)
	}
	return unexpected, nil
}
