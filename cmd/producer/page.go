package main

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/jedib0t/go-pretty/v6/table"

	"tollgate/internal/terminal"
	"tollgate/internal/wire"
)

// page shows answers to a person.
type page struct {
	out   *os.File
	paint terminal.Paint
	now   time.Time
}

func newPage(out *os.File) page { return page{out, terminal.NewPaint(out), time.Now()} }

func (p page) line(format string, args ...any) { fmt.Fprintf(p.out, format+"\n", args...) }

// check shows the result of a check.
func (p page) check(result *wire.ResultRecord, took time.Duration) {
	verdict := p.paint.Bad("✘ denied")
	switch {
	case result.Allowed:
		verdict = p.paint.Good("✔ allowed")
	case result.Error != nil:
		verdict = p.paint.Bad("✘ error")
	}
	what := result.FeatureID
	if result.RequiredBalance != nil && result.Flag == nil {
		what = string(*result.RequiredBalance) + " " + result.FeatureID
		if result.Balance != nil && result.Balance.FeatureID != result.FeatureID {
			what = result.FeatureID + " for " + string(*result.RequiredBalance) + " " + result.Balance.FeatureID
		}
	}
	who := result.CustomerID
	if result.EntityID != nil {
		who += " / " + *result.EntityID
	}
	p.line("%s  %s  %s, %s", verdict, result.Code, p.paint.Strong(who), what)
	if result.Error != nil {
		p.line("  %s", result.Error.Message)
	}
	if result.Flag != nil {
		p.line("  included in %s", result.Flag.PlanID)
	}
	if result.Balance != nil {
		p.line("")
		p.pool(result.Balance)
	}
	if preview := result.Preview; preview != nil {
		p.line("\n  %s\n  %s", p.paint.Strong(preview.Title), preview.Message)
		for _, product := range preview.Products {
			p.line("    %-16s %s", product.Name, price(product.Price))
		}
	}
	if lock := result.Lock; lock != nil {
		p.line("\n  lock %s holds %s %s, expires %s", p.paint.Strong(lock.LockID), lock.Value, result.FeatureID, p.when(lock.ExpiresAt))
	}
	if result.UsageEventID != "" {
		p.line("\n  %s", p.paint.Faint("usage event "+result.UsageEventID))
	}
	p.took(took)
}

func (p page) took(took time.Duration) {
	p.line("  %s", p.paint.Faint(fmt.Sprintf("answered in %.1f ms", float64(took.Microseconds())/1000)))
}

func price(of *wire.PlanPriceRecord) string {
	if of == nil {
		return "free"
	}
	amount := string(of.Amount) + " " + strings.ToUpper(of.Currency)
	if of.Interval == "one_off" {
		return amount + ", once"
	}
	return amount + " per " + strings.ReplaceAll(of.Interval, "_", " ")
}

// pool shows a balance with its breakdown.
func (p page) pool(pool *wire.PoolRecord) {
	var facts []string
	if pool.Unlimited {
		facts = append(facts, "unlimited")
	} else {
		facts = append(facts, fmt.Sprintf("%s of %s left", pool.Remaining, pool.Granted))
	}
	facts = append(facts, fmt.Sprintf("%s used%s", pool.Usage, heldText(pool.Held)))
	if pool.OverageAllowed {
		overage := "overage allowed"
		if pool.MaxPurchase != nil {
			overage += fmt.Sprintf(" up to %s", *pool.MaxPurchase)
		}
		facts = append(facts, overage)
	}
	if pool.NextResetAt != nil {
		facts = append(facts, "resets "+p.when(*pool.NextResetAt))
	}
	p.line("  %-12s %s  %s", pool.FeatureID, p.bar(pool), strings.Join(facts, ", "))
	if len(pool.Breakdown) < 2 && len(pool.Rollovers) == 0 {
		return
	}
	for _, b := range pool.Breakdown {
		left := string(b.Remaining)
		if b.Unlimited {
			left = "unlimited"
		}
		line := fmt.Sprintf("    %-24s %10s left %10s used%s", b.ID, left, b.Usage, heldText(b.Held))
		if b.Reset != nil && b.Reset.ResetsAt != nil {
			line += ", resets " + p.when(*b.Reset.ResetsAt)
		}
		if b.ExpiresAt != nil {
			line += ", ends " + p.when(*b.ExpiresAt)
		}
		p.line("%s", p.paint.Faint(line))
	}
	for _, r := range pool.Rollovers {
		line := fmt.Sprintf("    %-24s %10s left, rolled over", r.BalanceID, r.Remaining)
		if r.ExpiresAt != nil {
			line += ", ends " + p.when(*r.ExpiresAt)
		}
		p.line("%s", p.paint.Faint(line))
	}
}

// pools shows balances by feature.
func (p page) pools(pools map[string]*wire.PoolRecord) {
	if len(pools) > 0 {
		p.line("")
	}
	for _, feature := range slices.Sorted(maps.Keys(pools)) {
		p.pool(pools[feature])
	}
}

const barWidth = 20

// bar shows how much of what was granted is left. It is for the eye: the numbers
// beside it are the exact ones.
func (p page) bar(pool *wire.PoolRecord) string {
	share := 0.0
	granted, _ := strconv.ParseFloat(string(pool.Granted), 64)
	remaining, _ := strconv.ParseFloat(string(pool.Remaining), 64)
	switch {
	case pool.Unlimited:
		share = 1
	case granted > 0:
		share = min(1, remaining/granted)
	}
	full := int(share*barWidth + 0.5)
	bar := p.paint.Good(strings.Repeat("█", full))
	if share < 0.1 {
		bar = p.paint.Bad(strings.Repeat("█", full))
	}
	return bar + p.paint.Faint(strings.Repeat("░", barWidth-full))
}

// when says how far away a time is, and which it is.
func (p page) when(ms int64) string {
	at := time.UnixMilli(ms).UTC()
	away := at.Sub(p.now)
	text := at.Format("2006-01-02 15:04")
	switch {
	case away < 0:
		return "at " + text
	case away < 2*time.Minute:
		return fmt.Sprintf("in %d s (%s)", int(away.Seconds()), text)
	case away < 2*time.Hour:
		return fmt.Sprintf("in %d min (%s)", int(away.Minutes()), text)
	case away < 48*time.Hour:
		return fmt.Sprintf("in %d h (%s)", int(away.Hours()), text)
	}
	return fmt.Sprintf("in %d days (%s)", int(away.Hours()/24), text)
}

// commandResult is what a command can answer with.
type commandResult struct {
	Type         string                      `json:"type"`
	CustomerID   string                      `json:"customer_id"`
	OK           bool                        `json:"ok"`
	Balances     map[string]*wire.PoolRecord `json:"balances"`
	Error        *wire.ErrorRecord           `json:"error"`
	BalanceID    string                      `json:"balance_id"`
	UsageEventID string                      `json:"usage_event_id"`
	FeatureID    string                      `json:"feature_id"`
	Value        json.Number                 `json:"value"`
	Draws        []wire.DrawRecord           `json:"draws"`
	Lock         *wire.LockRecord            `json:"lock"`
	Forfeited    []wire.ForfeitRecord        `json:"forfeited"`
	Locks        []wire.LockRecord           `json:"locks"`
	Customer     *struct {
		Name  string `json:"name"`
		Email string `json:"email"`
	} `json:"customer"`
	Plans []struct {
		PlanID   string  `json:"plan_id"`
		EntityID *string `json:"entity_id"`
	} `json:"plans"`
	Entities []struct {
		EntityID string                      `json:"entity_id"`
		Name     *string                     `json:"name"`
		Balances map[string]*wire.PoolRecord `json:"balances"`
	} `json:"entities"`
	Flags map[string]*wire.FlagRecord `json:"flags"`
}

// command shows the result of a command.
func (p page) command(result *commandResult, took time.Duration) {
	verdict := p.paint.Good("✔ done")
	if !result.OK {
		verdict = p.paint.Bad("✘ failed")
	}
	p.line("%s  %s  %s", verdict, result.Type, p.paint.Strong(result.CustomerID))
	if result.Error != nil {
		p.line("  %s: %s", result.Error.Code, result.Error.Message)
	}
	if result.Customer != nil {
		p.profile(result)
	}
	if result.BalanceID != "" {
		p.line("  balance %s", result.BalanceID)
	}
	switch {
	case result.Lock != nil:
		p.lock(result)
	case result.Value != "":
		p.line("  asked for %s %s, took %s", result.Value, result.FeatureID, drawsText(result.Draws))
	}
	p.pools(result.Balances)
	for _, entity := range result.Entities {
		if len(entity.Balances) > 0 {
			p.line("\n  of %s alone", p.paint.Strong(entity.EntityID))
		}
		p.pools(entity.Balances)
	}
	p.locks(result.Locks)
	if result.UsageEventID != "" {
		p.line("\n  %s", p.paint.Faint("usage event "+result.UsageEventID))
	}
	p.took(took)
}

func (p page) profile(result *commandResult) {
	fact := func(name, value string) {
		if value != "" {
			p.line("  %-10s %s", name, value)
		}
	}
	fact("name", result.Customer.Name)
	fact("email", result.Customer.Email)
	var plans, entities []string
	for _, plan := range result.Plans {
		name := plan.PlanID
		if plan.EntityID != nil {
			name += " @" + *plan.EntityID
		}
		plans = append(plans, name)
	}
	for _, entity := range result.Entities {
		name := entity.EntityID
		if entity.Name != nil {
			name += " (" + *entity.Name + ")"
		}
		entities = append(entities, name)
	}
	fact("plans", strings.Join(plans, ", "))
	fact("includes", strings.Join(slices.Sorted(maps.Keys(result.Flags)), ", "))
	fact("entities", strings.Join(entities, ", "))
}

// codes shows how often each code came.
func (p page) codes(counts map[string]int) {
	if len(counts) == 0 {
		return
	}
	t := terminal.NewTable(p.out, table.Row{"code", "results"})
	for _, code := range slices.Sorted(maps.Keys(counts)) {
		t.AppendRow(table.Row{code, counts[code]})
	}
	t.Render()
}
