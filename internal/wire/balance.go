package wire

import (
	"encoding/json"

	fastjson "github.com/segmentio/encoding/json"

	"tollgate/internal/balance"
)

// PoolRecord is a balance as results show it: a pool, summed up.
type PoolRecord struct {
	FeatureID      string          `json:"feature_id"`
	Granted        json.Number     `json:"granted"`
	Remaining      json.Number     `json:"remaining"`
	Usage          json.Number     `json:"usage"`
	Held           json.Number     `json:"held"` // of the usage
	Unlimited      bool            `json:"unlimited"`
	OverageAllowed bool            `json:"overage_allowed"`
	MaxPurchase    *json.Number    `json:"max_purchase"`
	NextResetAt    *int64          `json:"next_reset_at"`
	Breakdown      []BalanceRecord `json:"breakdown"`
	// BreakdownTruncated says that the pool has more balances; the sums are those of all.
	BreakdownTruncated bool             `json:"breakdown_truncated,omitempty"`
	Rollovers          []RolloverRecord `json:"rollovers"`
	RolloversTruncated bool             `json:"rollovers_truncated,omitempty"`
}

type BalanceRecord struct {
	ID            string           `json:"id"`
	PlanID        *string          `json:"plan_id"`
	IncludedGrant json.Number      `json:"included_grant"`
	PrepaidGrant  json.Number      `json:"prepaid_grant"`
	Remaining     json.Number      `json:"remaining"`
	Usage         json.Number      `json:"usage"`
	Held          json.Number      `json:"held"` // of the usage
	Unlimited     bool             `json:"unlimited"`
	Reset         *ResetRecord     `json:"reset"`
	Price         *ItemPriceRecord `json:"price"`
	ExpiresAt     *int64           `json:"expires_at"`
}

type ResetRecord struct {
	Interval      string `json:"interval"`
	IntervalCount int    `json:"interval_count,omitempty"`
	ResetsAt      *int64 `json:"resets_at"`
}

type RolloverRecord struct {
	BalanceID string      `json:"balance_id"`
	Remaining json.Number `json:"remaining"`
	ExpiresAt *int64      `json:"expires_at"`
}

type ItemPriceRecord struct {
	Amount        json.Number  `json:"amount"`
	BillingUnits  json.Number  `json:"billing_units"`
	BillingMethod string       `json:"billing_method"`
	MaxPurchase   *json.Number `json:"max_purchase"`
}

func number(units int64, precision int) json.Number {
	return json.Number(balance.FormatUnits(units, precision))
}

func boundedNumber(units int64, precision int) *json.Number {
	if units == balance.Unbounded {
		return nil
	}
	n := number(units, precision)
	return &n
}

// orNull is a time or an id where 0 or "" stands for none.
func orNull[T comparable](value T) *T {
	var none T
	if value == none {
		return nil
	}
	return &value
}

// newPool sums a pool up (messages: check result). It is nil where the pool is.
func newPool(catalog *balance.Catalog, pool *balance.Pool) *PoolRecord {
	if pool == nil || len(pool.Balances) == 0 {
		return nil
	}
	precision := catalog.Known(pool.FeatureID).Precision
	sum := pool.Sum()
	out := &PoolRecord{
		FeatureID: pool.FeatureID, Granted: number(sum.Granted, precision), Remaining: number(sum.Remaining, precision),
		Usage: number(sum.Usage, precision), Held: number(sum.Held, precision), Unlimited: sum.Unlimited, OverageAllowed: sum.OverageAllowed,
		MaxPurchase: boundedNumber(sum.MaxPurchase, precision), NextResetAt: orNull(sum.NextResetAt),
		Breakdown: make([]BalanceRecord, 0, len(pool.Balances)), BreakdownTruncated: pool.Totals != nil,
		Rollovers: []RolloverRecord{},
	}
	for i := range pool.Balances {
		out.Breakdown = append(out.Breakdown, newBalance(catalog, pool.FeatureID, precision, &pool.Balances[i]))
	}
	rollovers, more := pool.Rollovers(mostRollovers)
	for _, r := range rollovers {
		out.Rollovers = append(out.Rollovers, RolloverRecord{
			BalanceID: r.Balance.ID(pool.FeatureID), Remaining: number(r.Remaining, precision), ExpiresAt: orNull(r.ExpiresAt),
		})
	}
	out.RolloversTruncated = more
	return out
}

// mostRollovers is how many rollovers of a pool a result shows.
const mostRollovers = 100

func newBalance(catalog *balance.Catalog, featureID string, precision int, b *balance.Balance) BalanceRecord {
	out := BalanceRecord{
		ID: b.ID(featureID), PlanID: orNull(b.PlanID),
		IncludedGrant: number(b.Included, precision), PrepaidGrant: number(b.Prepaid, precision),
		Remaining: number(b.Remaining(), precision), Usage: number(b.Usage(), precision), Held: number(b.Held, precision),
		Unlimited: b.Unlimited, ExpiresAt: orNull(b.ExpiresAt),
	}
	if b.Interval != balance.NoInterval {
		out.Reset = &ResetRecord{Interval: string(b.Interval), ResetsAt: orNull(b.ResetsAt)}
		if b.IntervalCount > 1 {
			out.Reset.IntervalCount = b.IntervalCount
		}
	}
	if item := catalog.Item(b.PlanID, featureID, b.ItemNumber); item != nil {
		out.Price = newItemPrice(item.Price, precision)
		if out.Price != nil && b.OverageAllowed {
			out.Price.MaxPurchase = boundedNumber(b.MaxPurchase, precision) // as it was granted
		}
	}
	return out
}

func newItemPrice(price *balance.ItemPrice, precision int) *ItemPriceRecord {
	if price == nil {
		return nil
	}
	return &ItemPriceRecord{
		Amount: json.Number(price.Amount.String()), BillingUnits: number(price.BillingUnits, precision),
		BillingMethod: string(price.Method), MaxPurchase: boundedNumber(price.MaxPurchase, precision),
	}
}

// marshal writes JSON as people read it: <, > and & stay as they are.
func marshal(value any) []byte {
	text, err := fastjson.Append(make([]byte, 0, 768), value, fastjson.SortMapKeys)
	if err != nil {
		// The shapes of this package always encode; raw JSON in them was validated.
		panic(err)
	}
	return text
}
