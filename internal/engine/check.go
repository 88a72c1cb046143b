package engine

import (
	"cmp"
	"slices"
	"strconv"

	"github.com/segmentio/kafka-go"

	"tollgate/internal/balance"
	"tollgate/internal/store"
	"tollgate/internal/wire"
)

// check is a check request on its way.
type check struct {
	*request
	wire.Check
	engine   *Engine
	refusal  *balance.Error   // nil unless something stands against deciding it
	feature  *balance.Feature // nil if it is not known
	units    int64            // Required in units of feature
	hasUnits bool
}

func (e *Engine) readCheck(r *request) (question, []kafka.Message) {
	c := &check{request: r, engine: e}
	c.refusal = e.readHeaders(r, e.options.Topics.CheckResults)
	var err error
	c.Check, err = wire.DecodeCheck(r.record.Value, r.record.Key)
	if reason := unreadable(err); reason != "" {
		c.CustomerID = ""
		return nil, []kafka.Message{
			c.refuse(&balance.Error{Code: balance.InvalidRequest, Message: reason}, r.readAt.UnixMilli()),
			e.deadLetter(r.record, deadUnreadable, reason),
		}
	}
	r.customerID = c.CustomerID
	if c.refusal == nil {
		c.refusal = cmp.Or(asError(err), tooLargeToRead(r.record))
	}
	malformed := err != nil || tooLargeToRead(r.record) != nil
	if !malformed {
		c.refusal = cmp.Or(c.refusal, c.resolve())
	}
	// What refuses a well-formed request (the catalogue, the settings) may have let it pass when the
	// record, or its idempotency key, came the first time: the store knows.
	if c.refusal != nil && (malformed || (!c.changes() && c.headers.IdempotencyKey == "")) {
		return nil, []kafka.Message{c.refuse(c.refusal, r.readAt.UnixMilli())}
	}
	return c, nil
}

// resolve finds the feature and the amount, and says what stands against deciding.
func (c *check) resolve() *balance.Error {
	c.feature = c.rules.catalog.Known(c.FeatureID)
	if c.rules.catalog.Feature(c.FeatureID) == nil {
		return balance.NewError(balance.FeatureNotFound)
	}
	units, err := balance.ParseUnits(c.Required, c.feature.Precision)
	if err != nil {
		return wire.AmountError("required_balance", c.Required, c.feature, err)
	}
	c.units, c.hasUnits = units, true
	return nil
}

func (c *check) call() store.Call {
	amount := c.Required
	if c.hasUnits && c.headers.IdempotencyKey != "" {
		amount = strconv.FormatInt(c.units, 10)
	}
	call := &store.Check{
		Step:      c.engine.step(c.request, c.CustomerID, c.EntityID, c.changes(), c.refusal, c.kind(), c.FeatureID, amount, c.Lock.ID),
		FeatureID: c.FeatureID, Flag: c.feature.Type == balance.Boolean, Deduct: c.changes(), Preview: c.WithPreview,
	}
	if c.Lock.Enabled {
		call.Lock = &store.LockRequest{
			ID: cmp.Or(c.Lock.ID, wire.EventID(c.record, 0)), ExpiresMs: c.Lock.ExpiresAtMs,
			OverageBehavior: cmp.Or(c.Lock.OverageBehavior, "reject"), Properties: c.Properties, Problem: c.lockProblem(), Precision: c.feature.Precision,
		}
	}
	call.DeadlineMs = max(0, c.headers.ExpiresAtMs)
	if !call.Flag {
		call.Needs = needs(c.rules.catalog, c.feature, c.units)
	}
	return c.engine.store.Check(call, c.rules.items)
}

// changes says whether an allowed check changes what the customer has.
func (c *check) changes() bool { return c.SendEvent || c.Lock.Enabled }

// kind is what is asked, for an idempotency key.
func (c *check) kind() string {
	if c.Lock.Enabled {
		return "lock"
	}
	return "check"
}

// lockProblem is what stands against the lock that is asked for, whatever the customer has.
func (c *check) lockProblem() *balance.Error {
	switch {
	case c.feature.IsSeatLike():
		return balance.NewError(balance.NotConsumable)
	case c.units < 0:
		return invalid("required_balance of a lock must be zero or more")
	case c.Lock.OverageBehavior != "" && !slices.Contains(overageBehaviors, c.Lock.OverageBehavior):
		return invalid("lock.overage_behavior must be one of %v", overageBehaviors)
	}
	return nil
}

// needs are the pools that an amount of a feature may be drawn from, and how much that is in the units of
// each.
func needs(catalog *balance.Catalog, feature *balance.Feature, units int64) []store.Need {
	candidates := catalog.Candidates(feature.ID)
	out := make([]store.Need, len(candidates))
	for i, candidate := range candidates {
		out[i] = store.Need{FeatureID: candidate.Feature.ID, Units: units, Factor: candidate.Factor}
		if i > 0 {
			converted, err := balance.Convert(units, feature.Precision, candidate.Cost, candidate.Feature.Precision)
			out[i].Units, out[i].Overflows = converted, err != nil
		}
	}
	return out
}

func (c *check) refuse(err *balance.Error, atMs int64) kafka.Message {
	result := c.result(err.Code, atMs)
	result.Error = err
	c.engine.observer.Checked(result)
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

func (c *check) answer(reply store.Reply) ([]kafka.Message, error) {
	outcome, err := store.ReadCheckOutcome(reply)
	if err != nil {
		return nil, err
	}
	if err := outcomeFailure(outcome.Error, outcome.EvaluatedMs); err != nil {
		return nil, err
	}
	c.stranger = c.changes() && outcome.Code == balance.CustomerNotFound
	result := c.result(outcome.Code, outcome.EvaluatedMs)
	hasBalance := false
	if len(outcome.Draws) > 0 {
		first := &outcome.Draws[0]
		result.Need, result.NeedFeature = first.Need, c.rules.catalog.Known(first.Pool.FeatureID)
		hasBalance = len(first.Pool.Balances) > 0
	}
	result.Draws, result.Error = outcome.Draws, outcome.Error
	result.IsTaken = (c.changes() || outcome.Repeats) && slices.ContainsFunc(outcome.Draws, func(d balance.Draw) bool { return !d.IsEmpty() })
	if outcome.Flag != nil {
		result.Flag = outcome.Flag
		result.Flag.FeatureID = c.FeatureID
	}
	if c.WithPreview && !outcome.Code.Allowed() && result.Error == nil {
		result.Preview = c.rules.catalog.NewPreview(c.feature, hasBalance, outcome.Plans)
	}
	c.engine.observer.Checked(result)
	first := wire.EventID(c.record, 0)
	if outcome.Repeats {
		first = string(outcome.Memo)
	}
	c.noteLock(outcome, cmp.Or(c.Lock.ID, first))
	switch {
	case outcome.LockExpiresMs > 0:
		result.Lock = &balance.Lock{ID: cmp.Or(c.Lock.ID, first), FeatureID: c.FeatureID, Units: c.units, ExpiresMs: outcome.LockExpiresMs}
		return []kafka.Message{result.Encode(c.rules.catalog, c.replyTopic, &c.headers, c.record.Key)}, nil
	case result.IsTaken:
		result.EventID = first
	}
	records := append(make([]kafka.Message, 0, 2), result.Encode(c.rules.catalog, c.replyTopic, &c.headers, c.record.Key))
	if !result.IsTaken || outcome.Repeats {
		return records, nil
	}
	event := &wire.Event{
		ID: result.EventID, RequestID: c.headers.RequestID, CustomerID: c.CustomerID, EntityID: c.EntityID,
		Feature: c.feature, Value: c.units, Properties: c.Properties,
		Draws: outcome.Draws, EvaluatedMs: outcome.EvaluatedMs,
	}
	c.engine.observer.UsageEvent()
	return append(records, event.Encode(c.rules.catalog, c.engine.options.Topics.UsageEvents, &c.headers)), nil
}
