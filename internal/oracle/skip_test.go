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
		reset := balance.Reset{Interval: one(t, "interval", balance.Hour, balance.Day, balance.Week), Count: rapid.IntRange(1, 9).Draw(t, "count")}
		amount := rapid.Int64Range(0, 12)
		g := &grant{
			feature: "messages", id: "gift", anchor: anchor, reset: reset, nextReset: nextBoundary(anchor, reset, anchor),
			included: amount.Draw(t, "included"), prepaid: amount.Draw(t, "prepaid"), added: 0,
		}
		g.usedIncluded = rapid.Int64Range(0, g.included).Draw(t, "used")
		if rapid.Bool().Draw(t, "rolls over") {
			g.rule = &balance.Rollover{Max: rapid.Int64Range(0, 300).Draw(t, "max"), ExpiryMonths: rapid.IntRange(0, 3).Draw(t, "months")}
		}
		for range rapid.IntRange(0, 4).Draw(t, "rollovers") { // of another rule, which may have let them live longer
			held := rapid.Int64Range(1, 40).Draw(t, "held")
			r := rollover{held: held, left: rapid.Int64Range(0, held).Draw(t, "left")}
			if rapid.Bool().Draw(t, "expires") {
				r.expires = anchor.Add(time.Duration(rapid.IntRange(1, 400).Draw(t, "days")) * 24 * time.Hour)
			}
			g.rollovers = append(g.rollovers, r)
		}
		now := anchor.Add(time.Duration(rapid.Int64Range(0, int64(400*24*time.Hour)).Draw(t, "later")))
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
