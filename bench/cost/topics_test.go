//go:build bench

package cost

import (
	"tollgate/internal/engine"
	"tollgate/internal/ops"
	"tollgate/internal/wire"
)

// All that may differ from commit to commit. Where a commit to compare with has no such file
// of its own, it gets testdata/topics_test.go.txt.

var topics = wire.Topics{Checks: "balance.checks", CheckResults: "balance.check-results", UsageEvents: "balance.usage-events", Commands: "balance.commands", CommandResults: "balance.command-results", DeadLetters: "balance.dead-letters"}

func observer() engine.Observer { return ops.NewMetrics() }
