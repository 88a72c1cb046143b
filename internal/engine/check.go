package engine

import (
	"cmp"
	"encoding/json"

	"github.com/segmentio/kafka-go"

	"tollgate/internal/balance"
	"tollgate/internal/store"
	"tollgate/internal/wire"
)

// check is a check request on its way.
type check struct {
	*request
	wire.Check
	replyTopic string
	feature    *balance.Feature // nil where it is not known
	units      int64            // Required in units of feature
	hasUnits   bool
}

// memo is what a repeat of an idempotency key must know of the first request.
type memo struct {
	FeatureID string `json:"feature_id"`
	EntityID  string `json:"entity_id,omitempty"`
	EventID   string `json:"event_id"`
}

func (e *Engine) prepareCheck(r *request) pending {
	c := &check{request: r}
	topic, refusal := e.readHeaders(r, e.options.Topics.CheckResults)
	c.replyTopic = topic
	var err error
	c.Check, err = wire.DecodeCheck(r.record.Value)
	if reason := unreadable(err); reason != "" {
		c.CustomerID = ""
		return pending{ready: []kafka.Message{
			e.refuse(c, &balance.Error{Code: balance.InvalidRequest, Message: reason}),
			e.deadLetter(r.record, deadUnreadable, reason),
		}}
	}
	if refusal == nil {
		refusal = asError(err)
	}
	malformed := err != nil
	if !malformed {
		refusal = cmp.Or(refusal, c.resolve())
	}
	// What refuses a well-formed request (the catalogue, the clock, the settings) may
	// have let it pass when the record, or its idempotency key, came the first time: the
	// store knows.
	if refusal != nil && (malformed || (!c.SendEvent && c.headers.IdempotencyKey == "")) {
		return pending{ready: []kafka.Message{e.refuse(c, refusal)}}
	}
	return pending{
		call:   e.checkCall(c, refusal),
		finish: func(reply store.Reply) ([]kafka.Message, error) { return e.finishCheck(c, reply) },
		refuse: func(err *balance.Error) kafka.Message { return e.refuse(c, err) },
	}
}

// resolve finds the feature and the amount, and says what stands against deciding.
func (c *check) resolve() *balance.Error {
	c.feature = c.rules.catalog.Known(c.FeatureID)
	if c.Lock {
		return &balance.Error{Code: balance.InvalidRequest, Message: "reservations (lock) are not available yet"}
	}
	if c.rules.catalog.Feature(c.FeatureID) == nil {
		return balance.NewError(balance.FeatureNotFound)
	}
	units, err := balance.ParseUnits(c.Required, c.feature.Precision)
	if err != nil {
		return wire.AmountError("required_balance", c.Required, c.feature, err)
	}
	c.units, c.hasUnits = units, true
	if c.headers.ExpiresAtMs > 0 && c.now.UnixMilli() > c.headers.ExpiresAtMs {
		return balance.NewError(balance.DeadlineExceeded)
	}
	return nil
}

func (e *Engine) checkCall(c *check, refusal *balance.Error) store.Call {
	call := &store.Check{
		FeatureID: c.FeatureID, Entity: c.EntityID, Flag: c.feature.Type == balance.Boolean,
		Deduct: c.SendEvent, Preview: c.WithPreview, Refusal: refusal,
	}
	var left []byte
	if c.headers.IdempotencyKey != "" {
		left, _ = json.Marshal(memo{c.FeatureID, c.EntityID, wire.EventID(c.record, 0)})
	}
	call.Step = e.step(c.request, c.CustomerID, c.SendEvent, left)
	if !call.Flag {
		call.Needs = needs(c.rules.catalog, c.feature, c.units)
	}
	return e.store.Check(call, c.rules.items)
}

// needs are the pools that an amount of a feature may be drawn from, and how much
// that is in the units of each.
func needs(catalog *balance.Catalog, feature *balance.Feature, units int64) []store.Need {
	candidates := catalog.Candidates(feature.ID)
	out := make([]store.Need, len(candidates))
	for i, candidate := range candidates {
		out[i] = store.Need{FeatureID: candidate.Feature.ID, Units: units}
		if i > 0 {
			converted, err := balance.Convert(units, feature.Precision, candidate.Cost, candidate.Feature.Precision)
			out[i].Units, out[i].Overflows = converted, err != nil
		}
	}
	return out
}

// refuse makes the result of a request that is not decided by its balance.
func (e *Engine) refuse(c *check, err *balance.Error) kafka.Message {
	result := c.result(err.Code, c.now.UnixMilli())
	result.Error = err
	e.observer.Checked(result)
	return result.Encode(c.rules.catalog, c.replyTopic, &c.headers, c.record.Key)
}

func (c *check) result(code balance.Code, evaluatedMs int64) *wire.Result {
	result := &wire.Result{
		RequestID: c.headers.RequestID, Code: code, CustomerID: c.CustomerID, FeatureID: c.FeatureID, EntityID: c.EntityID,
		EvaluatedMs: evaluatedMs,
	}
	if c.hasUnits {
		result.Need, result.NeedFeature = c.units, c.feature
	}
	return result
}

func (e *Engine) finishCheck(c *check, reply store.Reply) ([]kafka.Message, error) {
	outcome, err := store.DecodeCheck(reply)
	if err != nil {
		return nil, err
	}
	result := c.result(outcome.Code, outcome.EvaluatedMs)
	eventID := wire.EventID(c.record, 0)
	if outcome.Repeats {
		var first memo
		if err := json.Unmarshal(outcome.Memo, &first); err != nil {
			return nil, err
		}
		result.FeatureID, result.EntityID, eventID = first.FeatureID, first.EntityID, first.EventID
	}
	if outcome.PoolFeatureID != "" {
		result.Need, result.NeedFeature = outcome.Need, c.rules.catalog.Known(outcome.PoolFeatureID)
	}
	result.Pool = outcome.Pool
	if outcome.Flag != nil {
		result.Flag = outcome.Flag
		result.Flag.FeatureID = result.FeatureID
	}
	result.Error = outcome.Error
	if c.WithPreview && !outcome.Code.Allowed() && result.Error == nil {
		result.Preview = c.rules.catalog.NewPreview(c.feature, outcome.Pool != nil, outcome.Plans)
	}
	e.observer.Checked(result)
	var event *wire.Event
	if len(outcome.Deductions) > 0 {
		result.EventID = eventID
		if !outcome.Repeats {
			event = &wire.Event{
				ID: eventID, RequestID: c.headers.RequestID, CustomerID: c.CustomerID, EntityID: c.EntityID,
				Feature: c.feature, Value: c.units, Properties: c.Properties,
				Pool: outcome.Pool, PoolValue: outcome.Amount, Deductions: outcome.Deductions, EvaluatedMs: outcome.EvaluatedMs,
			}
		}
	}
	records := []kafka.Message{result.Encode(c.rules.catalog, c.replyTopic, &c.headers, c.record.Key)}
	if event != nil {
		e.observer.UsageEvent()
		records = append(records, event.Encode(c.rules.catalog, e.options.Topics.UsageEvents, &c.headers))
	}
	return records, nil
}
