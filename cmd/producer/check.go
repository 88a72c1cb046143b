package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"

	"tollgate/internal/settings"
	"tollgate/internal/wire"
)

type checkCommand struct {
	Feature         string            `short:"f" placeholder:"ID" group:"Request" help:"The feature."`
	Entity          string            `short:"e" placeholder:"ID" group:"Request" help:"The entity, a seat or a workspace."`
	RequiredBalance string            `short:"n" placeholder:"N" group:"Request" help:"The amount needed (1)."`
	SendEvent       bool              `group:"Request" help:"Deduct it, and record a usage event."`
	WithPreview     bool              `group:"Request" help:"When denied, tell which plans would help."`
	Property        map[string]string `placeholder:"K=V" mapsep:"none" group:"Request" help:"A property of the usage event; may be repeated."`
	asking          `embed:""`
}

// Check notes what is wrong with the flags.
func (c *checkCommand) Check(problems *settings.Problems) {
	c.asking.check(problems)
	if c.Feature == "" {
		problems.Missing("feature", "what to check")
	}
	checkNumber("required-balance", c.RequiredBalance, problems)
}

func (c *checkCommand) Run(ctx context.Context) error {
	fields := map[string]any{"feature_id": c.Feature}
	setText(fields, "entity_id", c.Entity)
	setNumber(fields, "required_balance", c.RequiredBalance)
	if c.SendEvent {
		fields["send_event"] = true
	}
	if c.WithPreview {
		fields["with_preview"] = true
	}
	if properties := properties(c.Property); properties != nil {
		fields["properties"] = properties
	}
	answer, err := c.ask(ctx, c.Topics.Checks, c.Topics.CheckResults, fields, c.SendEvent)
	if err != nil {
		return err
	}
	var result wire.ResultRecord
	if err := json.Unmarshal(answer.Record.Value, &result); err != nil {
		return fmt.Errorf("the result cannot be read: %w: %s", err, answer.Record.Value)
	}
	if c.json() {
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
