package main

import (
	"context"
	"time"

	"tollgate/internal/settings"
)

// mostHeld is how long a lock can be held ahead.
const mostHeld = 24 * time.Hour

// until is when a lock releases itself. It is given as a time, or by how far away it is.
type until struct {
	flag string // that says how far away
	away *time.Duration
	at   string
}

func (u until) check(problems *settings.Problems) {
	if _, err := unixMs(u.at); err != nil {
		problems.Add("--expires-at: %v", err)
	}
	if u.away != nil && u.at != "" {
		problems.Add("give either --%s or --expires-at", u.flag)
	}
	if u.away != nil && (*u.away <= 0 || *u.away > mostHeld) {
		problems.Add("--%s must be more than 0s, and at most 24h", u.flag)
	}
}

// ms is the time, 0 if none is given.
func (u until) ms(now time.Time) int64 {
	if u.away != nil {
		return now.Add(*u.away).UnixMilli()
	}
	ms, _ := unixMs(u.at)
	return ms
}

type lockCommand struct {
	question        `embed:""`
	LockID          string         `placeholder:"ID" group:"Request" help:"Your own name for the lock; one is made where none is given."`
	ExpiresIn       *time.Duration `placeholder:"DURATION" group:"Request" help:"Release it by itself after so long (24h, which is the most)."`
	ExpiresAt       string         `placeholder:"TIME" group:"Request" help:"Release it by itself at this time, as 2026-02-18T16:00:00Z or Unix ms."`
	OverageBehavior string         `placeholder:"WHAT" group:"Request" help:"Where more is confirmed than is held, and not all is allowed: reject (the default), cap or allow."`
	asking          `embed:""`
}

// Help explains what becomes of a lock.
func (c *lockCommand) Help() string {
	return `The amount is taken at once and held, without a usage event. 'producer finalize' spends what was used of it, or gives it back;
'producer extend' holds it longer. A lock that nobody finalizes releases itself.`
}

// Check notes what is wrong with the flags.
func (c *lockCommand) Check(problems *settings.Problems) {
	c.asking.check(problems)
	c.question.check(problems, "what to reserve")
	c.until().check(problems)
	checkOverageBehavior(c.OverageBehavior, problems)
}

func (c *lockCommand) until() until { return until{"expires-in", c.ExpiresIn, c.ExpiresAt} }

func (c *lockCommand) fields(now time.Time) map[string]any {
	lock := map[string]any{"enabled": true}
	setText(lock, "lock_id", c.LockID)
	setText(lock, "overage_behavior", c.OverageBehavior)
	if ms := c.until().ms(now); ms != 0 {
		lock["expires_at"] = ms
	}
	fields := c.question.fields()
	fields["lock"] = lock
	return fields
}

func (c *lockCommand) Run(ctx context.Context) error {
	return c.decide(ctx, c.fields(time.Now()), true)
}

type finalizeCommand struct {
	LockID   string            `arg:"" help:"The lock."`
	Release  bool              `group:"Request" help:"Give back all that it holds; else what it holds is spent."`
	Value    string            `short:"n" placeholder:"N" group:"Request" help:"Spend so much, less or more than it holds."`
	Property map[string]string `placeholder:"K=V" mapsep:"none" group:"Request" help:"A property of the usage event, in place of those of the check; may be repeated."`
	asking   `embed:""`
}

func (c *finalizeCommand) flags() *fieldFlags {
	action := "confirm"
	if c.Release {
		action = "release"
	}
	return &fieldFlags{LockID: c.LockID, Action: action, OverrideValue: c.Value, Property: c.Property}
}

// Check notes what is wrong with the flags.
func (c *finalizeCommand) Check(problems *settings.Problems) {
	c.asking.check(problems)
	checkNumber("value", c.Value, problems)
	if c.Release && (c.Value != "" || len(c.Property) > 0) {
		problems.Add("--release spends nothing: leave --value and --property out")
	}
}

func (c *finalizeCommand) Run(ctx context.Context) error {
	return c.run(ctx, "lock.finalize", c.flags().fields())
}

type extendCommand struct {
	LockID    string         `arg:"" help:"The lock."`
	In        *time.Duration `placeholder:"DURATION" group:"Request" help:"It releases itself in so long from now; at most 24h."`
	ExpiresAt string         `placeholder:"TIME" group:"Request" help:"It releases itself at this time, as 2026-02-18T16:00:00Z or Unix ms."`
	asking    `embed:""`
}

func (c *extendCommand) until() until { return until{"in", c.In, c.ExpiresAt} }

// Check notes what is wrong with the flags.
func (c *extendCommand) Check(problems *settings.Problems) {
	c.asking.check(problems)
	c.until().check(problems)
	if c.In == nil && c.ExpiresAt == "" {
		problems.Missing("in", "how long the lock is to be held from now, or --expires-at")
	}
}

func (c *extendCommand) fields(now time.Time) map[string]any {
	return map[string]any{"lock_id": c.LockID, "expires_at": c.until().ms(now)}
}

func (c *extendCommand) Run(ctx context.Context) error {
	return c.run(ctx, "lock.extend", c.fields(time.Now()))
}
