package oracle

import (
	"reflect"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"tollgate/internal/balance"
)

// settle applies every reset due, one after the other.
func (g *grant) settle(catalog *balance.Catalog, now time.Time) {
	for ended(g.nextReset, now) {
		g.applyReset(catalog)
		g.skipWhatCannotMatter(now)
	}
	g.dropRollovers(now)
}

func (g *grant) applyReset(catalog *balance.Catalog) {
	at, left, period := g.nextReset, g.left(), g.reset
	g.included, g.added = g.included-g.added, 0
	if item := catalog.Item(g.plan, g.feature, g.number); item != nil {
		g.overage, g.max = item.Overage()
		g.unlimited, g.reset, g.rule = item.Unlimited, item.Reset, item.Rollover
		g.included = min(item.Included*g.times, balance.MaxUnits-g.prepaid)
	}
	g.dropRollovers(at)
	g.rollOver(left, at, period)
	g.usedIncluded, g.usedPrepaid, g.over, g.fromRollovers, g.held, g.told = 0, 0, 0, 0, 0, 0
	g.nextReset = nextBoundary(g.anchor, g.reset, at)
}

// skipWhatCannotMatter moves the next reset on, after one was applied: two years have a
// million minutes. Nothing was consumed since that reset, so those that follow differ only
// in the rollovers that they make. Of these the oldest make way, so that an old one never
// costs a later one anything. Hence the first resets due can be left out where
//   - nothing is rolled over;
//   - those behind them fill the maximum and have not expired: whatever is older has made way;
//   - what they roll over has expired by now, and what is there already has, too.
//
// In any other case every reset is walked.
func (g *grant) skipWhatCannotMatter(now time.Time) {
	length := fixedLength[g.reset.Interval] * time.Duration(g.reset.Count)
	if length == 0 || !ended(g.nextReset, now) {
		return
	}
	due := now.Sub(g.nextReset)/length + 1
	if g.rule == nil || g.left() == 0 {
		g.nextReset = g.nextReset.Add(due * length)
		return
	}
	const shortestMonth, longestMonth = 28 * 24 * time.Hour, 31 * 24 * time.Hour
	months, forever := time.Duration(g.rule.ExpiryMonths), g.rule.ExpiryMonths == 0
	filling := max(1, time.Duration((g.rule.Max+g.left()-1)/g.left()))
	switch first := g.nextReset.Add((due - filling) * length); {
	case filling >= due:
	case forever || first.Add(months*shortestMonth).After(now):
		g.nextReset = first
	case !slices.ContainsFunc(g.rollovers, func(r rollover) bool { return !ended(r.expires, now) }):
		expired := (now.Sub(g.nextReset) - months*longestMonth) / length // or more, where months are short
		g.nextReset = g.nextReset.Add(max(0, expired) * length)
	}
}

func (g *grant) dropRollovers(at time.Time) {
	g.rollovers = slices.DeleteFunc(g.rollovers, func(r rollover) bool { return ended(r.expires, at) })
}

// rollOver makes what is left at a reset a rollover; the oldest make way where all
// together would pass the rule's maximum (semantics: Rollovers).
func (g *grant) rollOver(left int64, at time.Time, period balance.Reset) {
	if g.rule != nil {
		g.rollovers = append(g.rollovers, rollover{left: left, expires: rolloverExpiry(g.anchor, period, g.rule.ExpiryMonths, at)})
		surplus := -g.rule.Max
		for _, r := range g.rollovers {
			surplus += r.left
		}
		for i := 0; surplus > 0; i++ {
			dropped := min(surplus, g.rollovers[i].left)
			g.rollovers[i].left -= dropped
			surplus -= dropped
		}
	}
	g.rollovers = slices.DeleteFunc(g.rollovers, func(r rollover) bool { return r.left == 0 })
	for i := range g.rollovers {
		g.rollovers[i].atStart = g.rollovers[i].left
	}
}

// TestSkippingEndsAsWalking holds the only shortcut of the oracle against the walk that it
// replaces.
func TestSkippingEndsAsWalking(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		anchor := time.UnixMilli(rapid.Int64Range(1735689600_000, 1767225599_999).Draw(t, "anchor")).UTC()
		reset := balance.Reset{Interval: one(t, "interval", balance.Hour, balance.Day, balance.Week), Count: one(t, "count", 1, 3, 8)}
		amount := rapid.SampledFrom([]int64{0, 1, 2, 5, 12})
		g := &grant{
			feature: "messages", id: "gift", anchor: anchor, reset: reset, nextReset: nextBoundary(anchor, reset, anchor),
			included: amount.Draw(t, "included"), prepaid: amount.Draw(t, "prepaid"),
		}
		g.usedIncluded = rapid.Int64Range(0, g.included).Draw(t, "used")
		if rapid.Bool().Draw(t, "rolls over") {
			g.rule = &balance.Rollover{Max: one(t, "max", int64(0), 3, 10, 40, 300), ExpiryMonths: one(t, "months", 0, 1, 2, 3)}
		}
		for range rapid.IntRange(0, 4).Draw(t, "rollovers") { // of another rule, which may have let them live longer
			atStart := one(t, "at start", int64(1), 4, 40)
			r := rollover{atStart: atStart, left: rapid.Int64Range(0, atStart).Draw(t, "left")}
			if rapid.Bool().Draw(t, "expires") {
				r.expires = anchor.Add(time.Duration(one(t, "expires after", 1, 20, 100, 400)) * 24 * time.Hour)
			}
			g.rollovers = append(g.rollovers, r)
		}
		days := one(t, "days", 0, 2, 12, 28, 31, 33, 60, 95, 200, 370)
		now := anchor.Add(time.Duration(days)*24*time.Hour + time.Duration(rapid.IntRange(0, 72).Draw(t, "hours"))*time.Hour)
		walked := g.clone()
		for ended(walked.nextReset, now) {
			walked.applyReset(&balance.Catalog{})
		}
		walked.dropRollovers(now)
		g.settle(&balance.Catalog{}, now)
		if len(g.rollovers) == 0 && len(walked.rollovers) == 0 {
			g.rollovers, walked.rollovers = nil, nil
		}
		if !reflect.DeepEqual(g, walked) {
			t.Fatalf("skipping: %+v\nwalking:  %+v", g, walked)
		}
	})
}
