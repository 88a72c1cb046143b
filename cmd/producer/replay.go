package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"

	"tollgate/internal/client"
	"tollgate/internal/settings"
)

type replayCommand struct {
	DryRun     bool   `group:"Request" help:"Only show what would be sent back."`
	Group      string `default:"tollgate-replay" group:"Kafka" help:"Consumer group under which it is noted how far dead letters were sent back."`
	connection `embed:""`
}

// Check notes what is wrong with the flags.
func (c *replayCommand) Check(problems *settings.Problems) {
	c.connection.check(problems)
	if c.Group == "" {
		problems.Missing("group", "the consumer group to note the progress under")
	}
}

// replayed is the summary of a replay, and with -o json what is printed of each record.
type replayed struct {
	SentBack map[string]int `json:"sent_back"` // by topic
	Left     int            `json:"left"`
	DryRun   bool           `json:"dry_run"`
}

func (c *replayCommand) Run(ctx context.Context) error {
	sender, err := c.connect(ctx)
	if err != nil {
		return err
	}
	replay := client.Replay{
		DeadLetters: c.Topics.DeadLetters, To: []string{c.Topics.Checks, c.Topics.Commands}, Group: c.Group, DryRun: c.DryRun,
	}
	page, summary := newPage(os.Stdout), replayed{SentBack: map[string]int{}, DryRun: c.DryRun}
	err = replay.Run(ctx, sender, func(one client.Replayed) {
		if one.Left == nil {
			summary.SentBack[one.Topic]++
		} else {
			summary.Left++
		}
		if !c.json() {
			page.replayed(one)
		}
	})
	if err != nil {
		return err
	}
	if c.json() {
		return json.NewEncoder(os.Stdout).Encode(summary)
	}
	page.replays(&summary)
	return nil
}

// replayed shows what became of a dead letter in a line.
func (p page) replayed(one client.Replayed) {
	const shown = 80
	value := one.Dead.Value[:min(len(one.Dead.Value), shown)]
	if one.Left != nil {
		p.line("%s  %v: %q", p.paint.Bad("left"), one.Left, value)
		return
	}
	p.line("%s  to %s, %s: %q", p.paint.Good("back"), one.Topic, one.Reason, value)
}

func (p page) replays(summary *replayed) {
	total := 0
	for _, n := range summary.SentBack {
		total += n
	}
	would := ""
	if summary.DryRun {
		would = " (not yet: --dry-run)"
	}
	fmt.Fprintf(p.out, "%d dead letters sent back, %d left alone%s\n", total, summary.Left, would)
}
