package wire

import (
	"encoding/json"
	"strconv"
	"time"

	"github.com/segmentio/kafka-go"
	"github.com/tidwall/gjson"

	"tollgate/internal/balance"
)

// Result is the answer to a check.
type Result struct {
	RequestID   string
	Code        balance.Code
	CustomerID  string
	FeatureID   string // the one asked for
	EntityID    string
	Need        int64            // units of NeedFeature
	NeedFeature *balance.Feature // nil where the amount is not known
	// Draws are the pools drawn from, or that would be; of a denied check the one that is reported.
	Draws       []balance.Draw
	IsTaken     bool // the draws were taken
	Flag        *balance.Flag
	Preview     *balance.Preview
	EventID     string        // "" where nothing was deducted
	Lock        *balance.Lock // that was made, nil for none
	EvaluatedMs int64
	Error       *balance.Error
}

// Allowed says whether the customer may.
func (r *Result) Allowed() bool { return r.Error == nil && r.Code.Allowed() }

type ResultRecord struct {
	RequestID       string       `json:"request_id"`
	Allowed         bool         `json:"allowed"`
	Code            balance.Code `json:"code"`
	CustomerID      string       `json:"customer_id"`
	FeatureID       string       `json:"feature_id"`
	EntityID        *string      `json:"entity_id"`
	RequiredBalance *json.Number `json:"required_balance"`
	Balance         *PoolRecord  `json:"balance"`
	// Balances has both pools of a check that draws from two.
	Balances     map[string]*PoolRecord `json:"balances,omitempty"`
	Draws        []DrawRecord           `json:"draws"`
	Flag         *FlagRecord            `json:"flag"`
	Preview      *PreviewRecord         `json:"preview,omitempty"`
	UsageEventID string                 `json:"usage_event_id,omitempty"`
	Lock         *HeldRecord            `json:"lock,omitempty"`
	EvaluatedAt  int64                  `json:"evaluated_at"`
	Error        *ErrorRecord           `json:"error,omitempty"`
}

// HeldRecord is a lock as the check that made it is told of it.
type HeldRecord struct {
	LockID    string      `json:"lock_id"`
	Value     json.Number `json:"value"` // in units of the feature
	ExpiresAt int64       `json:"expires_at"`
}

// DrawRecord is what was taken from a pool, or would be, in its units.
type DrawRecord struct {
	FeatureID string      `json:"feature_id"`
	Value     json.Number `json:"value"`
	Remaining json.Number `json:"remaining"`
}

// newDraws are those of some draws that take something.
func newDraws(catalog *balance.Catalog, draws []balance.Draw, isTaken bool) []DrawRecord {
	out := make([]DrawRecord, 0, len(draws))
	for i := range draws {
		draw := &draws[i]
		if draw.IsEmpty() {
			continue
		}
		precision := catalog.Known(draw.Pool.FeatureID).Precision
		out = append(out, DrawRecord{draw.Pool.FeatureID, number(draw.Amount, precision), number(draw.RemainingAfter(isTaken), precision)})
	}
	return out
}

type FlagRecord struct {
	FeatureID string `json:"feature_id"`
	PlanID    string `json:"plan_id"`
	ExpiresAt *int64 `json:"expires_at"`
}

type ErrorRecord struct {
	Code    balance.Code `json:"code"`
	Message string       `json:"message"`
}

func newError(err *balance.Error) *ErrorRecord {
	if err == nil {
		return nil
	}
	return &ErrorRecord{err.Code, err.Message}
}

func newFlag(flag *balance.Flag) *FlagRecord {
	if flag == nil {
		return nil
	}
	return &FlagRecord{flag.FeatureID, flag.PlanID, orNull(flag.ExpiresAt)}
}

// Encode makes the record of a result for a topic. key is the request's own
// where the customer is not known.
func (r *Result) Encode(catalog *balance.Catalog, topic string, headers *Headers, key []byte) kafka.Message {
	out := ResultRecord{
		RequestID: r.RequestID, Allowed: r.Allowed(), Code: r.Code,
		CustomerID: r.CustomerID, FeatureID: r.FeatureID, EntityID: orNull(r.EntityID),
		Draws: newDraws(catalog, r.Draws, r.IsTaken), Flag: newFlag(r.Flag), Preview: newPreview(catalog, r.Preview),
		UsageEventID: r.EventID, EvaluatedAt: r.EvaluatedMs, Error: newError(r.Error),
	}
	if len(r.Draws) > 0 {
		out.Balance = newPool(catalog, &r.Draws[0].Pool)
	}
	if len(r.Draws) > 1 {
		out.Balances = map[string]*PoolRecord{r.Draws[0].Pool.FeatureID: out.Balance, r.Draws[1].Pool.FeatureID: newPool(catalog, &r.Draws[1].Pool)}
	}
	if r.NeedFeature != nil {
		n := number(r.Need, r.NeedFeature.Precision)
		out.RequiredBalance = &n
	}
	if r.Lock != nil {
		out.Lock = &HeldRecord{r.Lock.ID, number(r.Lock.Units, catalog.Known(r.Lock.FeatureID).Precision), r.Lock.ExpiresMs}
	}
	return kafka.Message{
		Topic: topic, Partition: headers.ReplyPartition, Key: resultKey(r.CustomerID, key), Value: marshal(out), Headers: headers.resultHeaders(),
	}
}

// resultKey is the key of a result: its customer, or the request's own if that is not known. There is always one: a
// topic that is compacted refuses records without.
func resultKey(customerID string, requestKey []byte) []byte {
	if customerID == "" && requestKey != nil {
		return requestKey
	}
	return []byte(customerID)
}

// IsCommandResult says whether a result is a command's, not a check's.
func IsCommandResult(result *kafka.Message) bool { return gjson.GetBytes(result.Value, "ok").Exists() }

// WithoutContent is a result, of a check or a command, with an error in the place of
// everything but who asked what.
func WithoutContent(result *kafka.Message, err *balance.Error) kafka.Message {
	fields := gjson.GetManyBytes(result.Value, "request_id", "customer_id", "feature_id", "type", "evaluated_at")
	out := map[string]any{
		"request_id": fields[0].String(), "customer_id": fields[1].String(), "evaluated_at": fields[4].Int(), "error": newError(err),
	}
	if fields[3].Exists() {
		out["type"], out["ok"] = fields[3].String(), false
	} else {
		out["feature_id"], out["allowed"], out["code"] = fields[2].String(), false, err.Code
	}
	replaced := *result
	replaced.Value = marshal(out)
	return replaced
}

// Event is usage that was deducted, as the usage topic bears it.
type Event struct {
	ID          string
	RequestID   string
	CustomerID  string
	EntityID    string
	Feature     *balance.Feature // the one asked for
	Value       int64            // what was asked, in units of Feature
	Properties  string           // a JSON object, "" for none
	Draws       []balance.Draw   // that were taken
	LockID      string           // of the lock that was confirmed, "" for none
	EvaluatedMs int64
}

type EventRecord struct {
	SpecVersion     string      `json:"specversion"`
	ID              string      `json:"id"`
	Source          string      `json:"source"`
	Type            string      `json:"type"`
	Subject         string      `json:"subject"`
	Time            string      `json:"time"`
	DataContentType string      `json:"datacontenttype"`
	Data            UsageRecord `json:"data"`
}

type UsageRecord struct {
	RequestID  string            `json:"request_id"`
	CustomerID string            `json:"customer_id"`
	EntityID   *string           `json:"entity_id"`
	FeatureID  string            `json:"feature_id"`
	Value      json.Number       `json:"value"`
	Properties json.RawMessage   `json:"properties"`
	Draws      []DrawRecord      `json:"draws"`
	Deductions []DeductionRecord `json:"deductions"`
	LockID     string            `json:"lock_id,omitempty"`
}

type DeductionRecord struct {
	FeatureID string       `json:"feature_id"` // of the pool
	BalanceID string       `json:"balance_id"`
	PlanID    *string      `json:"plan_id"`
	Amount    json.Number  `json:"amount"`
	Kind      balance.Kind `json:"kind"`
}

// eventSource is the CloudEvents source; source and id together name a deduction.
const eventSource = "tollgate"

// TimestampMs is a record's timestamp in Unix milliseconds, 0 where it has none.
func TimestampMs(record *kafka.Message) int64 {
	if record.Time.IsZero() {
		return 0
	}
	return record.Time.UnixMilli()
}

// EventID names a deduction by the record that made it: a redelivery has the
// same, two records that bear the same request id do not. place counts the
// record's deductions, from 0.
func EventID(record *kafka.Message, place int) string {
	id := make([]byte, 0, len(record.Topic)+48)
	id = append(append(id, record.Topic...), '/')
	id = append(strconv.AppendInt(id, int64(record.Partition), 10), '/')
	id = append(strconv.AppendInt(id, record.Offset, 10), '@')
	return NumberedEventID(string(strconv.AppendInt(id, TimestampMs(record), 10)), place)
}

// NumberedEventID is the id of a record's deduction by the id of its first.
func NumberedEventID(first string, place int) string {
	if place == 0 {
		return first
	}
	return first + "#" + strconv.Itoa(place+1)
}

// Encode makes the record of a usage event for a topic.
func (e *Event) Encode(catalog *balance.Catalog, topic string, headers *Headers) kafka.Message {
	properties := json.RawMessage("{}")
	if e.Properties != "" {
		properties = json.RawMessage(e.Properties)
	}
	var deductions []DeductionRecord
	for i := range e.Draws {
		pool := e.Draws[i].Pool.FeatureID
		precision := catalog.Known(pool).Precision
		for _, d := range e.Draws[i].Deductions {
			deductions = append(deductions, DeductionRecord{pool, d.Balance.ID(pool), orNull(d.Balance.PlanID), number(d.Amount, precision), d.Kind})
		}
	}
	out := EventRecord{
		SpecVersion: "1.0", ID: e.ID, Source: eventSource, Type: e.Feature.EventType(), Subject: e.CustomerID,
		Time:            time.UnixMilli(e.EvaluatedMs).UTC().Format("2006-01-02T15:04:05.000Z07:00"),
		DataContentType: contentTypeJSON,
		Data: UsageRecord{
			RequestID: e.RequestID, CustomerID: e.CustomerID, EntityID: orNull(e.EntityID), FeatureID: e.Feature.ID,
			Value: number(e.Value, e.Feature.Precision), Properties: properties,
			Draws: newDraws(catalog, e.Draws, true), Deductions: deductions, LockID: e.LockID,
		},
	}
	return kafka.Message{
		Topic: topic, Partition: AnyPartition, Key: []byte(e.CustomerID), Value: marshal(out), Headers: headers.eventHeaders(),
	}
}
