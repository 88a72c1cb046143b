package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"

	"tollgate/internal/settings"
	"tollgate/internal/wire"
)

// question is what every check asks.
type question struct {
	Feature         string            `short:"f" placeholder:"ID" group:"Request" help:"The feature."`
	Entity          string            `short:"e" placeholder:"ID" group:"Request" help:"The entity, a seat or a workspace."`
	RequiredBalance string            `short:"n" placeholder:"N" group:"Request" help:"The amount needed (1)."`
	WithPreview     bool              `group:"Request" help:"When denied, tell which plans would help."`
	Property        map[string]string `placeholder:"K=V" mapsep:"none" group:"Request" help:"A property of the usage event; may be repeated."`
}

func (q *question) check(problems *settings.Problems, what string) {
	if q.Feature == "" {
		problems.Missing("feature", what)
	}
	checkNumber("required-balance", q.RequiredBalance, problems)
}

func (q *question) fields() map[string]any {
	fields := map[string]any{"feature_id": q.Feature}
	setText(fields, "entity_id", q.Entity)
	setNumber(fields, "required_balance", q.RequiredBalance)
	if q.WithPreview {
		fields["with_preview"] = true
	}
	if properties := properties(q.Property); properties != nil {
		fields["properties"] = properties
	}
	return fields
}

// decide sends a check, and shows its result. changes says that it may take something.
func (a *asking) decide(ctx context.Context, fields map[string]any, changes bool) error {
	answer, err := a.ask(ctx, a.Topics.Checks, a.Topics.CheckResults, fields, changes)
	if err != nil {
		return err
	}
	var result wire.ResultRecord
	if err := json.Unmarshal(answer.Record.Value, &result); err != nil {
		return fmt.Errorf("the result cannot be read: %w: %s", err, answer.Record.Value)
	}
	if a.json() {
		fmt.Printf("%s\n", answer.Record.Value)
	} else {
		newPage(os.Stdout).check(&result, answer.Took)
	}
	switch {
	case result.Error != nil:
		return exitError
	case !result.Allowed:
		return exitDenied
	}
	return nil
}

type checkCommand struct {
	question  `embed:""`
	SendEvent bool `group:"Request" help:"Deduct it, and record a usage event."`
	asking    `embed:""`
}

// Check notes what is wrong with the flags.
func (c *checkCommand) Check(problems *settings.Problems) {
	c.asking.check(problems)
	c.question.check(problems, "what to check")
}

func (c *checkCommand) Run(ctx context.Context) error {
	fields := c.fields()
	if c.SendEvent {
		fields["send_event"] = true
	}
	return c.decide(ctx, fields, c.SendEvent)
}
