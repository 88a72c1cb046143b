package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"tollgate/internal/kafka"
	"tollgate/internal/ops"
	"tollgate/internal/stream"
)

// probes are what must be well before the worker is ready.
func (w *worker) probes() []ops.Probe {
	return []ops.Probe{
		{Name: "kafka", Check: func(ctx context.Context) error { return w.broker.Reachable(ctx) }},
		{Name: "redis", Check: w.store.Ping},
		{Name: "held back", Check: w.metrics.Waiting},
		{Name: "group", Check: func(context.Context) error { return errors.Join(notJoined(w.consumer), missing(w.consumer)) }},
		{Name: "partitions", Check: func(context.Context) error {
			return errors.Join(blocked(w.consumer.Blocked()), stalled(w.stalls()))
		}},
	}
}

func notJoined(consumer *stream.Consumer) error {
	if reason := consumer.Membership(); reason != nil {
		return fmt.Errorf("not joined: %w", reason)
	}
	return nil
}

func missing(consumer *stream.Consumer) error {
	topics := consumer.Missing()
	if len(topics) == 0 {
		return nil
	}
	return fmt.Errorf("topics are missing, or this user may not see them: %s; 'worker topics create' makes them", strings.Join(topics, ", "))
}

// stalls are the partitions that do not go on though nobody knows of it yet: that others wait for an operator, or for
// their Redis shard, is said elsewhere.
func (w *worker) stalls() []stream.Stall {
	known := map[kafka.Target]bool{}
	for _, b := range w.consumer.Blocked() {
		known[b.Target] = true
	}
	return slices.DeleteFunc(w.consumer.Stalls(), func(s stream.Stall) bool {
		return known[s.Target] || w.metrics.IsHeldBack(s.Target)
	})
}

// blocked tells of partitions that wait for an operator, nil if there are none.
func blocked(list []stream.Blocked) error {
	var all []ops.Waiting
	for _, b := range list {
		all = append(all, ops.Waiting{Target: b.Target, Reason: b.Reason})
	}
	return ops.Report(all, func(g ops.Group) string { return fmt.Sprintf("%s wait: %s", g.Partitions, g.Reason) })
}

// stalled tells of partitions that do not go on, nil if there are none.
func stalled(list []stream.Stall) error {
	var all []ops.Waiting
	for _, s := range list {
		all = append(all, ops.Waiting{Target: s.Target, Records: s.Lag, For: s.For, Reason: s.Reason})
	}
	return ops.Report(all, func(g ops.Group) string {
		return fmt.Sprintf("%s stand still for %v with %d records waiting: %s", g.Partitions, g.For.Round(time.Second), g.Records, g.Reason)
	})
}
