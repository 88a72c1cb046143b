package main

import (
	"encoding/json"
	"fmt"
	"os"
	"strings"

	"tollgate/internal/balance"
	"tollgate/internal/catalog"
	"tollgate/internal/ops"
	"tollgate/internal/settings"
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
