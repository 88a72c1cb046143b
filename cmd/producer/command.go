package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"tollgate/internal/settings"
)

// fieldFlags are the fields of commands, as flags. The worker says which of them a
// command needs.
type fieldFlags struct {
	Entity   string            `short:"e" placeholder:"ID" group:"Request" help:"The entity."`
	Feature  string            `short:"f" placeholder:"ID" group:"Request" help:"The feature."`
	Plan     string            `short:"p" placeholder:"ID" group:"Request" help:"The plan."`
	Quantity map[string]string `placeholder:"FEATURE=N" mapsep:"none" group:"Request" help:"Prepaid units bought; may be repeated."`
	StartsAt string            `placeholder:"TIME" group:"Request" help:"When the plan started; times as 2026-02-18T16:00:00Z or Unix ms."`

	Name     string `placeholder:"TEXT" group:"Request" help:"Name of a customer or an entity."`
	Email    string `placeholder:"TEXT" group:"Request" help:"E-mail address of a customer."`
	Metadata string `placeholder:"JSON" group:"Request" help:"Metadata of a customer, an object."`

	Amount    string `placeholder:"N" group:"Request" help:"What a grant gives."`
	Unlimited bool   `group:"Request" help:"The grant is unlimited."`
	Reset     string `placeholder:"INTERVAL[:COUNT]" group:"Request" help:"The grant starts afresh so often: month, week:2, …"`
	ExpiresAt string `placeholder:"TIME" group:"Request" help:"When the grant ends, or the lock."`
	BalanceID string `placeholder:"ID" group:"Request" help:"The balance."`

	Remaining string `placeholder:"N" group:"Request" help:"What balance.update sets the remaining to."`
	Usage     string `placeholder:"N" group:"Request" help:"What balance.update sets the usage to."`
	Add       string `placeholder:"N" group:"Request" help:"What balance.update adds; negative takes away."`

	EventName       string            `placeholder:"NAME" group:"Request" help:"Every feature that bears this event name, in place of a feature."`
	Value           string            `short:"n" placeholder:"N" group:"Request" help:"Usage to track (1); negative gives back."`
	Property        map[string]string `placeholder:"K=V" mapsep:"none" group:"Request" help:"A property of the usage event; may be repeated."`
	OverageBehavior string            `placeholder:"WHAT" group:"Request" help:"Where not all is allowed: cap (the default), reject or allow."`

	LockID        string `placeholder:"ID" group:"Request" help:"The lock."`
	Action        string `placeholder:"WHAT" group:"Request" help:"What lock.finalize does: confirm or release."`
	OverrideValue string `placeholder:"N" group:"Request" help:"What lock.finalize confirms, in place of what is held."`
}

func (f *fieldFlags) check(problems *settings.Problems) {
	for flag, text := range map[string]string{
		"amount": f.Amount, "remaining": f.Remaining, "usage": f.Usage, "add": f.Add, "value": f.Value, "override-value": f.OverrideValue,
	} {
		checkNumber(flag, text, problems)
	}
	for _, quantity := range f.Quantity {
		checkNumber("quantity", quantity, problems)
	}
	for flag, text := range map[string]string{"starts-at": f.StartsAt, "expires-at": f.ExpiresAt} {
		if _, err := unixMs(text); err != nil {
			problems.Add("--%s: %v", flag, err)
		}
	}
	if f.Metadata != "" && !json.Valid([]byte(f.Metadata)) {
		problems.Add("--metadata: it is no JSON")
	}
	if _, count, given := strings.Cut(f.Reset, ":"); given {
		if _, err := strconv.Atoi(count); err != nil {
			problems.Add("--reset: %q must be an interval, or an interval, a colon and a number", f.Reset)
		}
	}
}

// unixMs reads a time, 0 where the text is empty.
func unixMs(text string) (int64, error) {
	if text == "" {
		return 0, nil
	}
	if ms, err := strconv.ParseInt(text, 10, 64); err == nil {
		return ms, nil
	}
	at, err := time.Parse(time.RFC3339, text)
	if err != nil {
		return 0, fmt.Errorf("%q is no time like 2026-02-18T16:00:00Z", text)
	}
	return at.UnixMilli(), nil
}

// fields are the fields that were given.
func (f *fieldFlags) fields() map[string]any {
	fields := map[string]any{}
	for name, text := range map[string]string{
		"entity_id": f.Entity, "feature_id": f.Feature, "plan_id": f.Plan, "name": f.Name, "email": f.Email,
		"balance_id": f.BalanceID, "event_name": f.EventName, "overage_behavior": f.OverageBehavior,
		"lock_id": f.LockID, "action": f.Action,
	} {
		setText(fields, name, text)
	}
	for name, text := range map[string]string{
		"amount": f.Amount, "remaining": f.Remaining, "usage": f.Usage, "add": f.Add, "value": f.Value, "override_value": f.OverrideValue,
	} {
		setNumber(fields, name, text)
	}
	for name, text := range map[string]string{"starts_at": f.StartsAt, "expires_at": f.ExpiresAt} {
		if ms, _ := unixMs(text); ms != 0 {
			fields[name] = ms
		}
	}
	if len(f.Quantity) > 0 {
		quantities := map[string]json.Number{}
		for feature, n := range f.Quantity {
			quantities[feature] = json.Number(n)
		}
		fields["quantities"] = quantities
	}
	if f.Metadata != "" {
		fields["metadata"] = json.RawMessage(f.Metadata)
	}
	if f.Unlimited {
		fields["unlimited"] = true
	}
	if interval, count, counted := strings.Cut(f.Reset, ":"); interval != "" {
		reset := map[string]any{"interval": interval}
		if counted {
			reset["interval_count"] = json.Number(count)
		}
		fields["reset"] = reset
	}
	if properties := properties(f.Property); properties != nil {
		fields["properties"] = properties
	}
	return fields
}

// unkeyed are the commands that are sent without an idempotency key: they change nothing, or set a time that
// is given. With a key, asking once more for an hour from now would be another question.
var unkeyed = []string{"customer.get", "lock.get", "lock.extend"}

// run sends a command, and shows its result.
func (a *asking) run(ctx context.Context, kind string, fields map[string]any) error {
	fields["type"] = kind
	answer, err := a.ask(ctx, a.Topics.Commands, a.Topics.CommandResults, fields, !slices.Contains(unkeyed, kind))
	if err != nil {
		return err
	}
	var result commandResult
	if err := json.Unmarshal(answer.Record.Value, &result); err != nil {
		return fmt.Errorf("the result cannot be read: %w: %s", err, answer.Record.Value)
	}
	if a.json() {
		fmt.Printf("%s\n", answer.Record.Value)
	} else {
		newPage(os.Stdout).command(&result, answer.Took)
	}
	switch {
	case result.OK:
		return nil
	case result.Error != nil && !result.Error.Code.IsError():
		return exitDenied
	}
	return exitError
}

type commandCommand struct {
	Type       string `arg:"" help:"customer.put, customer.get, customer.delete, plan.attach, plan.detach, entity.create, entity.delete, balance.grant, balance.update, usage.track, lock.finalize, lock.extend or lock.get."`
	fieldFlags `embed:""`
	asking     `embed:""`
}

// Check notes what is wrong with the flags.
func (c *commandCommand) Check(problems *settings.Problems) {
	c.asking.check(problems)
	c.fieldFlags.check(problems)
}

func (c *commandCommand) Run(ctx context.Context) error { return c.run(ctx, c.Type, c.fields()) }

type attachCommand struct {
	Plan     string            `short:"p" placeholder:"ID" group:"Request" help:"The plan."`
	Entity   string            `short:"e" placeholder:"ID" group:"Request" help:"Attach it to this entity of the customer."`
	Quantity map[string]string `placeholder:"FEATURE=N" mapsep:"none" group:"Request" help:"Prepaid units bought; may be repeated."`
	asking   `embed:""`
}

func (c *attachCommand) flags() *fieldFlags {
	return &fieldFlags{Plan: c.Plan, Entity: c.Entity, Quantity: c.Quantity}
}

// Check notes what is wrong with the flags.
func (c *attachCommand) Check(problems *settings.Problems) {
	c.asking.check(problems)
	c.flags().check(problems)
	if c.Plan == "" {
		problems.Missing("plan", "the plan to attach")
	}
}

func (c *attachCommand) Run(ctx context.Context) error {
	return c.run(ctx, "plan.attach", c.flags().fields())
}

type grantCommand struct {
	Feature   string `short:"f" placeholder:"ID" group:"Request" help:"The feature."`
	Entity    string `short:"e" placeholder:"ID" group:"Request" help:"Grant it to this entity of the customer."`
	Amount    string `short:"n" placeholder:"N" group:"Request" help:"How much."`
	Unlimited bool   `group:"Request" help:"Without limit."`
	Reset     string `placeholder:"INTERVAL[:COUNT]" group:"Request" help:"It starts afresh so often: month, week:2, …"`
	ExpiresAt string `placeholder:"TIME" group:"Request" help:"When it ends, as 2026-02-18T16:00:00Z or Unix ms."`
	BalanceID string `placeholder:"ID" group:"Request" help:"Its id; one is made where none is given."`
	asking    `embed:""`
}

func (c *grantCommand) flags() *fieldFlags {
	return &fieldFlags{
		Feature: c.Feature, Entity: c.Entity, Amount: c.Amount, Unlimited: c.Unlimited, Reset: c.Reset,
		ExpiresAt: c.ExpiresAt, BalanceID: c.BalanceID,
	}
}

// Check notes what is wrong with the flags.
func (c *grantCommand) Check(problems *settings.Problems) {
	c.asking.check(problems)
	c.flags().check(problems)
	if c.Feature == "" {
		problems.Missing("feature", "what to grant")
	}
	if (c.Amount == "") != c.Unlimited {
		problems.Add("give either --amount or --unlimited")
	}
}

func (c *grantCommand) Run(ctx context.Context) error {
	return c.run(ctx, "balance.grant", c.flags().fields())
}

type trackCommand struct {
	Feature         string            `short:"f" placeholder:"ID" group:"Request" help:"The feature."`
	EventName       string            `placeholder:"NAME" group:"Request" help:"Every feature that bears this event name, in place of a feature."`
	Entity          string            `short:"e" placeholder:"ID" group:"Request" help:"The entity."`
	Value           string            `short:"n" placeholder:"N" group:"Request" help:"How much (1); negative gives back."`
	Property        map[string]string `placeholder:"K=V" mapsep:"none" group:"Request" help:"A property of the usage event; may be repeated."`
	OverageBehavior string            `placeholder:"WHAT" group:"Request" help:"Where not all is allowed: cap (the default), reject or allow."`
	asking          `embed:""`
}

func (c *trackCommand) flags() *fieldFlags {
	return &fieldFlags{
		Feature: c.Feature, EventName: c.EventName, Entity: c.Entity, Value: c.Value, Property: c.Property,
		OverageBehavior: c.OverageBehavior,
	}
}

// overageBehaviors are what usage.track and a lock take.
var overageBehaviors = []string{"", "cap", "reject", "allow"}

// checkOverageBehavior notes a text that is none of them.
func checkOverageBehavior(text string, problems *settings.Problems) {
	if !slices.Contains(overageBehaviors, text) {
		problems.Add("--overage-behavior: %q is none of cap, reject and allow", text)
	}
}

// Check notes what is wrong with the flags.
func (c *trackCommand) Check(problems *settings.Problems) {
	c.asking.check(problems)
	c.flags().check(problems)
	if (c.Feature == "") == (c.EventName == "") {
		problems.Add("give either --feature or --event-name")
	}
	checkOverageBehavior(c.OverageBehavior, problems)
}

func (c *trackCommand) Run(ctx context.Context) error {
	return c.run(ctx, "usage.track", c.flags().fields())
}

type balancesCommand struct {
	asking `embed:""`
}

// Check notes what is wrong with the flags.
func (c *balancesCommand) Check(problems *settings.Problems) { c.asking.check(problems) }

func (c *balancesCommand) Run(ctx context.Context) error {
	return c.run(ctx, "customer.get", map[string]any{})
}
