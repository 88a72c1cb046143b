package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"time"

	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/segmentio/kafka-go"

	"tollgate/internal/balance"
	"tollgate/internal/catalog"
	"tollgate/internal/ops"
	"tollgate/internal/settings"
	"tollgate/internal/stream"
	"tollgate/internal/terminal"
	"tollgate/internal/wire"
)

type catalogCommand struct {
	Check catalogCheckCommand `cmd:"" help:"Validate a catalogue file; exits 1 where it has a problem, each named with its line."`
}

type catalogCheckCommand struct {
	File   string `arg:"" help:"The file."`
	Output string `short:"o" default:"text" enum:"text,json" group:"Output" help:"text or json."`
}

// checkedCatalog is what a check of a catalogue found.
type checkedCatalog struct {
	Valid    bool     `json:"valid"`
	Version  string   `json:"version,omitempty"`
	Features int      `json:"features"`
	Plans    int      `json:"plans"`
	Problems []string `json:"problems"`
}

func (c *catalogCheckCommand) Run() error {
	rules, err := catalog.Load(c.File)
	if c.Output == "json" {
		return c.encode(rules, err)
	}
	if err != nil {
		return err
	}
	fmt.Printf("%s is valid: %d features, %d plans, version %s\n", c.File, len(rules.Features), len(rules.Plans), rules.Version)
	return nil
}

func (c *catalogCheckCommand) encode(rules *balance.Catalog, err error) error {
	found := checkedCatalog{Valid: err == nil, Problems: []string{}}
	if err == nil {
		found.Version, found.Features, found.Plans = rules.Version, len(rules.Features), len(rules.Plans)
	} else {
		found.Problems = strings.Split(err.Error(), "\n")
	}
	if err := json.NewEncoder(os.Stdout).Encode(found); err != nil {
		return err
	}
	if !found.Valid {
		return settings.ExitCode(1)
	}
	return nil
}

type topicsCommand struct {
	Create topicsCreateCommand `cmd:"" help:"Create the topics that are missing, and say how those that exist differ."`
}

type topicsCreateCommand struct {
	Kafka             settings.Kafka  `embed:"" prefix:"kafka-" group:"Kafka"`
	Topics            settings.Topics `embed:"" prefix:"topic-" group:"Topics"`
	Partitions        int             `default:"12" group:"Topics" help:"Partitions of each topic; requests and results must have the same number."`
	ReplicationFactor int             `default:"3" group:"Topics" help:"Copies of each partition."`
	Retention         time.Duration   `default:"168h" group:"Topics" help:"How long records are kept."`
	Output            string          `short:"o" default:"text" enum:"text,json" group:"Output" help:"text or json."`
}

// Check notes what is wrong with the settings.
func (c *topicsCreateCommand) Check(problems *settings.Problems) {
	c.Kafka.Check(problems)
	c.Topics.Check(problems)
	if c.Partitions < 1 {
		problems.Add("--partitions must be 1 or more")
	}
	if c.ReplicationFactor < 1 {
		problems.Add("--replication-factor must be 1 or more")
	}
	if c.Retention < time.Minute {
		problems.Add("--retention must be 1m or more")
	}
}

func (c *topicsCreateCommand) Run(ctx context.Context) error {
	broker := c.Kafka.Broker(slog.Default())
	if err := stream.Reachable(ctx, broker); err != nil {
		return err
	}
	states, err := stream.CreateTopics(ctx, broker.Client, topicsToBe(c.Topics.Names(), c.Partitions, c.ReplicationFactor, c.Retention))
	if errors.Is(err, kafka.InvalidReplicationFactor) {
		return fmt.Errorf("%w\n--replication-factor must not be more than the brokers that there are", err)
	}
	if err != nil {
		return err
	}
	if c.Output == "json" {
		return json.NewEncoder(os.Stdout).Encode(states)
	}
	rows := terminal.NewTable(os.Stdout, table.Row{"topic", "", ""})
	for _, state := range states {
		what := "exists"
		if state.Created {
			what = "created"
		}
		rows.AppendRow(table.Row{state.Name, what, strings.Join(state.Differs, "; ")})
	}
	rows.Render()
	return nil
}

func topicsToBe(names wire.Topics, partitions, replicationFactor int, retention time.Duration) []stream.Topic {
	var topics []stream.Topic
	for _, name := range names.All() {
		topics = append(topics, stream.Topic{Name: name, Partitions: partitions, ReplicationFactor: replicationFactor, Retention: retention})
	}
	return topics
}

type versionCommand struct {
	Output string `short:"o" default:"text" enum:"text,json" group:"Output" help:"text or json."`
}

func (c *versionCommand) Run() error {
	build := ops.ReadBuild()
	if c.Output == "json" {
		return json.NewEncoder(os.Stdout).Encode(build)
	}
	fmt.Printf("tollgate %s, commit %s, %s\n", build.Version, build.Commit, build.Go)
	return nil
}
