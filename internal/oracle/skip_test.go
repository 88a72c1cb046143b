package oracle

import (
	"reflect"
	"testing"
	"time"

	"pgregory.net/rapid"

	"tollgate/internal/balance"
)

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
			held := one(t, "held", int64(1), 4, 40)
			r := rollover{held: held, left: rapid.Int64Range(0, held).Draw(t, "left")}
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
