package wire

import (
	"encoding/json"

	"github.com/segmentio/kafka-go"
	"github.com/tidwall/gjson"

	"tollgate/internal/balance"
)

// Limits of what a command can bear.
const (
	maxNameBytes       = 1024
	maxMetadataBytes   = 16 << 10
	maxIntervalCount   = 1000
	maxQuantityEntries = 256
)

// Command is a record of the commands topic. Which fields it needs depends on
// its type; numbers are kept as they were written, "" where they are absent.
type Command struct {
	Type       string
	CustomerID string
	EntityID   string
	FeatureID  string
	PlanID     string
	BalanceID  string
	EventName  string

	Name, Email, Metadata string // Metadata is a JSON object

	Quantities  map[string]string // by feature
	StartsAtMs  int64             // 0 where it is absent
	ExpiresAtMs int64             // 0 where it is absent
	Amount      string
	Unlimited   bool
	Reset       balance.Reset
	Remaining   string
	Usage       string
	Add         string

	Value           string
	Properties      string
	OverageBehavior string

	LockID        string
	Action        string
	OverrideValue string
}

// DecodeCommand reads a command. It fails as DecodeCheck does.
func DecodeCommand(value, key []byte) (Command, error) {
	var c Command
	o, err := readRequest(value, key, &c.CustomerID)
	if err != nil {
		return c, err
	}
	c.Type = o.text("type", MaxIDBytes)
	if c.Type == "" {
		o.fail("type is missing")
	}
	c.EntityID, c.FeatureID, c.PlanID = o.id("entity_id"), o.id("feature_id"), o.id("plan_id")
	c.BalanceID, c.EventName = o.id("balance_id"), o.id("event_name")
	c.Name, c.Email = o.text("name", maxNameBytes), o.text("email", maxNameBytes)
	c.Metadata = o.raw("metadata", maxMetadataBytes)
	c.Quantities = o.quantities()
	c.StartsAtMs, _ = o.timeMs("starts_at")
	c.ExpiresAtMs, _ = o.timeMs("expires_at")
	c.Amount, c.Unlimited = o.number("amount"), o.boolean("unlimited")
	c.Reset = o.reset()
	c.Remaining, c.Usage, c.Add = o.number("remaining"), o.number("usage"), o.number("add")
	c.Value, c.Properties = o.number("value"), o.raw("properties", maxPropertiesBytes)
	c.OverageBehavior = o.text("overage_behavior", MaxIDBytes)
	c.LockID, c.Action, c.OverrideValue = o.idOf("lock_id", maxEventIDBytes), o.text("action", MaxIDBytes), o.number("override_value")
	if o.err != nil {
		return c, o.err
	}
	return c, nil
}

func (o *object) quantities() map[string]string {
	nested := o.child("quantities")
	if nested == nil {
		return nil
	}
	if len(nested.fields) > maxQuantityEntries {
		o.fail("quantities has more than %d entries", maxQuantityEntries)
		return nil
	}
	quantities := make(map[string]string, len(nested.fields))
	for _, field := range nested.fields {
		if nested.has(field.name) {
			quantities[field.name] = nested.number(field.name)
		}
	}
	o.adopt("quantities", nested)
	return quantities
}

// reset reads {"interval", "interval_count"}; the interval is none where it is absent.
func (o *object) reset() balance.Reset {
	reset := balance.Reset{Count: 1}
	nested := o.child("reset")
	if nested == nil {
		return reset
	}
	interval := balance.Interval(nested.text("interval", MaxIDBytes))
	known := false
	for _, name := range balance.Intervals[1:] {
		known = known || interval == name
	}
	if !known {
		nested.fail("interval must be one of %v", balance.Intervals[1:])
	}
	reset.Interval = interval
	if count, ok := nested.get("interval_count"); ok {
		n := count.Int()
		if count.Type != gjson.Number || float64(n) != count.Num || n < 1 || n > maxIntervalCount {
			nested.fail("interval_count must be a whole number from 1 to %d", maxIntervalCount)
		}
		reset.Count = int(n)
	}
	o.adopt("reset", nested)
	return reset
}

// CommandResult is the answer to a command.
type CommandResult struct {
	RequestID  string
	Type       string
	CustomerID string
	Error      *balance.Error
	Pools      []balance.Pool
	// Extra are the fields that only some commands answer with.
	Extra       map[string]any
	EvaluatedMs int64
}

// Amount is an amount in a CommandResult's extra fields.
func Amount(units int64, precision int) json.Number { return number(units, precision) }

// DrawFields are what was taken of pools.
func DrawFields(catalog *balance.Catalog, draws []balance.Draw) []DrawRecord {
	return newDraws(catalog, draws, true)
}

// LockRecord is a lock as results of commands show it.
type LockRecord struct {
	LockID    string            `json:"lock_id"`
	FeatureID string            `json:"feature_id"`
	EntityID  *string           `json:"entity_id"`
	Value     json.Number       `json:"value"` // held, or until it was settled, in units of the feature
	ExpiresAt int64             `json:"expires_at"`
	State     balance.LockState `json:"state"`
}

// NewLock shows a lock.
func NewLock(catalog *balance.Catalog, lock *balance.Lock) LockRecord {
	return LockRecord{
		lock.ID, lock.FeatureID, orNull(lock.Entity), number(lock.Units, catalog.Known(lock.FeatureID).Precision), lock.ExpiresMs, lock.State,
	}
}

// ForfeitRecord is what of a lock could not go back to a pool, in its units.
type ForfeitRecord struct {
	FeatureID string      `json:"feature_id"`
	Value     json.Number `json:"value"`
}

// NewForfeits shows what was forfeited.
func NewForfeits(catalog *balance.Catalog, forfeits []balance.Forfeit) []ForfeitRecord {
	out := make([]ForfeitRecord, 0, len(forfeits))
	for _, f := range forfeits {
		out = append(out, ForfeitRecord{f.FeatureID, number(f.Units, catalog.Known(f.FeatureID).Precision)})
	}
	return out
}

// FlagFields are the flags of a customer by feature, as results show them.
func FlagFields(flags []balance.Flag) map[string]any {
	out := map[string]any{}
	for i := range flags {
		// The first plan that includes a feature is the one that a check tells of.
		if _, told := out[flags[i].FeatureID]; !told {
			out[flags[i].FeatureID] = newFlag(&flags[i])
		}
	}
	return out
}

// PoolFields are pools by feature, as results show them.
func PoolFields(catalog *balance.Catalog, pools []balance.Pool) map[string]*PoolRecord {
	out := make(map[string]*PoolRecord, len(pools))
	for i := range pools {
		if pool := newPool(catalog, &pools[i]); pool != nil {
			out[pools[i].FeatureID] = pool
		}
	}
	return out
}

// Encode makes the record of a command's result for a topic.
func (r *CommandResult) Encode(catalog *balance.Catalog, topic string, headers *Headers, key []byte) kafka.Message {
	out := map[string]any{}
	for name, value := range r.Extra {
		out[name] = value
	}
	out["request_id"], out["type"], out["customer_id"] = r.RequestID, r.Type, r.CustomerID
	out["ok"], out["evaluated_at"] = r.Error == nil, r.EvaluatedMs
	if r.Error != nil {
		out["error"] = newError(r.Error)
	}
	out["balances"] = PoolFields(catalog, r.Pools)
	return kafka.Message{
		Topic: topic, Partition: headers.ReplyPartition, Key: resultKey(r.CustomerID, key), Value: marshal(out), Headers: headers.resultHeaders(),
	}
}
