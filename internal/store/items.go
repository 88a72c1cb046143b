package store

import (
	"github.com/tinylib/msgp/msgp"

	"tollgate/internal/balance"
)

// Items is the catalogue as the scripts need it: what each plan item grants
// today, for resets and for attaching. It is made once per catalogue.
type Items struct {
	all       []byte            // rows of every metered item
	byFeature map[string][]byte // rows of the items of every pool that a check of the feature may use
	perEntity map[string][]byte // {plan, rank, item} rows by seat feature
	defaults  []byte            // the default plans
	kept      []byte            // features whose usage outlives a plan: metered ones that are not consumable
	catalog   *balance.Catalog
}

var rankMain, rankAddOn = int(number("RANK", "main")), int(number("RANK", "add_on"))

// NewItems prepares a catalogue.
func NewItems(catalog *balance.Catalog) *Items {
	items := &Items{byFeature: map[string][]byte{}, perEntity: map[string][]byte{}, catalog: catalog}
	items.all = itemRows(catalog, func(*balance.Item) bool { return true })
	for i := range catalog.Features {
		id := catalog.Features[i].ID
		pools := map[string]bool{}
		for _, candidate := range catalog.Candidates(id) {
			pools[candidate.Feature.ID] = true
		}
		items.byFeature[id] = itemRows(catalog, func(item *balance.Item) bool { return pools[item.FeatureID] })
		items.perEntity[id] = perEntityRows(catalog, id)
	}
	var defaults [][]byte
	for i := range catalog.Plans {
		if catalog.Plans[i].Default {
			defaults = append(defaults, packPlan(catalog, &catalog.Plans[i], nil))
		}
	}
	items.defaults = packList(defaults)
	var kept [][]byte
	for i := range catalog.Features {
		if catalog.Features[i].IsSeatLike() {
			kept = append(kept, msgp.AppendString(nil, catalog.Features[i].ID))
		}
	}
	items.kept = packList(kept)
	return items
}

func packList(entries [][]byte) []byte {
	packed := msgp.AppendArrayHeader(nil, uint32(len(entries)))
	for _, entry := range entries {
		packed = append(packed, entry...)
	}
	return packed
}

func isFlag(catalog *balance.Catalog, item *balance.Item) bool {
	return catalog.Feature(item.FeatureID).Type == balance.Boolean
}

func itemRows(catalog *balance.Catalog, wanted func(*balance.Item) bool) []byte {
	var rows [][]byte
	for i := range catalog.Plans {
		plan := &catalog.Plans[i]
		for j := range plan.Items {
			item := &plan.Items[j]
			if wanted(item) && !isFlag(catalog, item) {
				row := msgp.AppendArrayHeader(nil, 2)
				row = msgp.AppendString(row, plan.ID)
				rows = append(rows, appendItem(row, catalog, item))
			}
		}
	}
	return packList(rows)
}

func perEntityRows(catalog *balance.Catalog, seats string) []byte {
	var rows [][]byte
	for i := range catalog.Plans {
		plan := &catalog.Plans[i]
		for j := range plan.Items {
			if item := &plan.Items[j]; item.PerEntity == seats {
				row := msgp.AppendArrayHeader(nil, 3)
				row = msgp.AppendString(row, plan.ID)
				row = msgp.AppendInt(row, rankOf(plan))
				rows = append(rows, appendItem(row, catalog, item))
			}
		}
	}
	return packList(rows)
}

func rankOf(plan *balance.Plan) int {
	if plan.AddOn {
		return rankAddOn
	}
	return rankMain
}

func bit(set bool) int {
	if set {
		return 1
	}
	return 0
}

func intervalNumber(interval balance.Interval) int {
	for n, known := range balance.Intervals {
		if known == interval {
			return n
		}
	}
	return 0
}

var (
	itemValues = uint32(inOrder("I", "feature", "number", "included", "unlimited", "overage", "max", "unit", "count", "rollover_max", "rollover_months",
		"seats", "prepaid", "flag"))
	planValues = uint32(inOrder("PLAN", "id", "group", "rank", "one_off", "items", "quantities"))
)

// appendItem packs an item (I).
func appendItem(dst []byte, catalog *balance.Catalog, item *balance.Item) []byte {
	overage, maxPurchase := item.Overage()
	rolloverMax, rolloverMonths := balance.Unbounded, 0
	if item.Rollover != nil {
		rolloverMax, rolloverMonths = item.Rollover.Max, item.Rollover.ExpiryMonths
	}
	feature := catalog.Feature(item.FeatureID)
	dst = msgp.AppendArrayHeader(dst, itemValues)
	dst = msgp.AppendString(dst, item.FeatureID)
	dst = msgp.AppendInt(dst, item.Number)
	dst = msgp.AppendInt64(dst, item.Included)
	dst = msgp.AppendInt(dst, bit(item.Unlimited))
	dst = msgp.AppendInt(dst, bit(overage))
	dst = msgp.AppendInt64(dst, maxPurchase)
	dst = msgp.AppendInt(dst, intervalNumber(item.Reset.Interval))
	dst = msgp.AppendInt(dst, max(1, item.Reset.Count))
	dst = msgp.AppendInt64(dst, rolloverMax)
	dst = msgp.AppendInt(dst, rolloverMonths)
	dst = msgp.AppendString(dst, item.PerEntity)
	dst = msgp.AppendInt(dst, bit(item.IsPrepaid()))
	return msgp.AppendInt(dst, bit(feature.Type == balance.Boolean))
}

// packPlan packs a plan (PLAN). quantities are the
// units bought by feature; each goes to the plan's first prepaid item of it.
func packPlan(catalog *balance.Catalog, plan *balance.Plan, quantities map[string]int64) []byte {
	packed := msgp.AppendArrayHeader(nil, planValues)
	packed = msgp.AppendString(packed, plan.ID)
	packed = msgp.AppendString(packed, plan.Group)
	packed = msgp.AppendInt(packed, rankOf(plan))
	packed = msgp.AppendInt(packed, bit(plan.IsOneOffAddOn()))
	packed = msgp.AppendArrayHeader(packed, uint32(len(plan.Items)))
	for i := range plan.Items {
		packed = appendItem(packed, catalog, &plan.Items[i])
	}
	packed = msgp.AppendArrayHeader(packed, uint32(len(plan.Items)))
	taken := map[string]bool{}
	for i := range plan.Items {
		item := &plan.Items[i]
		bought := int64(-1)
		if units, given := quantities[item.FeatureID]; given && !taken[item.FeatureID] && item.IsPrepaid() {
			bought, taken[item.FeatureID] = units, true
		}
		packed = msgp.AppendInt64(packed, bought)
	}
	return packed
}
