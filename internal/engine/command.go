package engine

import (
	"cmp"
	"fmt"

	"github.com/segmentio/kafka-go"

	"tollgate/internal/balance"
	"tollgate/internal/store"
	"tollgate/internal/wire"
)

// command is a command on its way.
type command struct {
	*request
	wire.Command
	engine *Engine
	asked  store.Call
}

// commandType is how a command becomes a call, and which fields its answer has that others have not (nil
// for none).
type commandType struct {
	prepare func(*command) (store.Call, *balance.Error)
	fields  func(*command, *store.CommandOutcome) map[string]any
	reads   bool // it changes nothing, and is evaluated again if it is redelivered
}

var commandTypes = map[string]commandType{
	"customer.put":    {(*command).customerPut, nil, false},
	"customer.get":    {(*command).customerGet, (*command).profileFields, true},
	"customer.delete": {(*command).customerDelete, nil, false},
	"plan.attach":     {(*command).planAttach, nil, false},
	"plan.detach":     {(*command).planDetach, nil, false},
	"entity.create":   {(*command).entityCreate, nil, false},
	"entity.delete":   {(*command).entityDelete, nil, false},
	"balance.grant":   {(*command).balanceGrant, (*command).grantFields, false},
	"balance.update":  {(*command).balanceUpdate, nil, false},
	"usage.track":     {(*command).usageTrack, (*command).trackedFields, false},
	"lock.finalize":   {(*command).lockFinalize, (*command).lockFields, false},
	"lock.extend":     {(*command).lockExtend, (*command).lockFields, false},
	"lock.get":        {(*command).lockGet, (*command).lockFields, true},
	"lock.expire":     {(*command).lockExpire, (*command).lockFields, false},
}

func (e *Engine) readCommand(r *request) (question, []kafka.Message) {
	c := &command{request: r, engine: e}
	refusal := e.readHeaders(r, e.options.Topics.CommandResults)
	var err error
	c.Command, err = wire.DecodeCommand(r.record.Value, r.record.Key)
	if reason := unreadable(err); reason != "" {
		c.CustomerID = ""
		return nil, []kafka.Message{
			c.refuse(&balance.Error{Code: balance.InvalidRequest, Message: reason}, r.readAt.UnixMilli()),
			e.deadLetter(r.record, deadUnreadable, reason),
		}
	}
	r.customerID = c.CustomerID
	tooLarge := tooLargeToRead(r.record)
	refusal = cmp.Or(refusal, asError(err), tooLarge)
	kind, known := commandTypes[c.Type]
	if !known && refusal == nil {
		refusal = invalid("there is no command %q", c.Type)
	}
	if err != nil || tooLarge != nil || !known {
		return nil, []kafka.Message{c.refuse(refusal, r.readAt.UnixMilli())}
	}
	call, notNow := kind.prepare(c)
	// As for a check: what refuses a well-formed command may have let it pass before.
	if refusal = cmp.Or(refusal, notNow); refusal != nil {
		step := c.step(!kind.reads)
		step.Refusal = refusal
		call = e.store.Refuse(step, c.rules.items)
	}
	c.asked = call
	return c, nil
}

func (c *command) call() store.Call { return c.asked }

func invalid(format string, args ...any) *balance.Error {
	return &balance.Error{Code: balance.InvalidRequest, Message: fmt.Sprintf(format, args...)}
}

func (c *command) refuse(err *balance.Error, atMs int64) kafka.Message {
	c.engine.observer.Commanded(c.label(), false)
	result := &wire.CommandResult{
		RequestID: c.headers.RequestID, Type: c.Type, CustomerID: c.CustomerID, Error: err, EvaluatedMs: atMs,
	}
	return result.Encode(c.rules.catalog, c.replyTopic, &c.headers, c.record.Key)
}

// label is the command's type for metrics, where only known types may be labels.
func (c *command) label() string {
	if _, known := commandTypes[c.Type]; known {
		return c.Type
	}
	return "unknown"
}

func (c *command) answer(reply store.Reply) ([]kafka.Message, error) {
	outcome, err := store.ReadCommandOutcome(reply)
	if err != nil {
		return nil, err
	}
	if err := outcomeFailure(outcome.Error, outcome.EvaluatedMs); err != nil {
		return nil, err
	}
	c.stranger = outcome.Error != nil && outcome.Error.Code == balance.CustomerNotFound
	c.noteLock(outcome)
	result := &wire.CommandResult{
		RequestID: c.headers.RequestID, Type: c.Type, CustomerID: c.CustomerID, Pools: outcome.Pools, EvaluatedMs: outcome.EvaluatedMs,
		Error: outcome.Error,
	}
	base := wire.EventID(c.record, 0)
	if outcome.Repeats {
		base = string(outcome.Memo)
	}
	events, ids := c.events(outcome, base)
	if fields := commandTypes[c.Type].fields; fields != nil && outcome.Error == nil {
		result.Extra = fields(c, outcome)
	}
	if len(ids) > 0 {
		if result.Extra == nil {
			result.Extra = map[string]any{}
		}
		result.Extra["usage_event_id"] = ids[0]
		if len(ids) > 1 {
			result.Extra["usage_event_ids"] = ids
		}
	}
	c.engine.observer.Commanded(c.Type, result.Error == nil)
	records := []kafka.Message{result.Encode(c.rules.catalog, c.replyTopic, &c.headers, c.record.Key)}
	if !outcome.Repeats {
		for _, event := range events {
			c.engine.observer.UsageEvent()
			records = append(records, event.Encode(c.rules.catalog, c.engine.options.Topics.UsageEvents, &c.headers))
		}
	}
	return records, nil
}

// events makes a usage event of everything that was deducted.
func (c *command) events(outcome *store.CommandOutcome, base string) ([]*wire.Event, []string) {
	var events []*wire.Event
	var ids []string
	for i := range outcome.Events {
		usage := &outcome.Events[i]
		if !usage.IsTaken() {
			continue
		}
		id := wire.NumberedEventID(base, len(events))
		ids = append(ids, id)
		event := &wire.Event{
			ID: id, RequestID: c.headers.RequestID, CustomerID: c.CustomerID,
			Feature: c.rules.catalog.Known(usage.FeatureID), Value: usage.Units, Properties: c.Properties,
			Draws: usage.Draws, EvaluatedMs: outcome.EvaluatedMs,
		}
		switch {
		case outcome.Lock != nil:
			event.EntityID, event.Properties, event.LockID = outcome.Lock.Entity, outcome.Lock.Properties, outcome.Lock.ID
		case c.Type == "usage.track":
			event.EntityID = c.EntityID // a seat is the customer's
		}
		events = append(events, event)
	}
	return events, ids
}

// step is what the command's call has in common with others.
func (c *command) step(remember bool) store.Step {
	return c.engine.step(c.request, c.CustomerID, c.EntityID, remember, nil,
		"command", c.Type, c.Name, c.Email, c.Metadata, c.FeatureID, c.PlanID, c.BalanceID, c.EventName, fmt.Sprint(c.Quantities), // in the order of its keys
		fmt.Sprint(c.StartsAtMs, c.ExpiresAtMs, c.Unlimited, c.Reset), c.Amount, c.Remaining, c.Usage, c.Add, c.Value, c.OverageBehavior,
		c.LockID, c.Action, c.OverrideValue)
}

// metered finds a feature that has balances.
func (c *command) metered() (*balance.Feature, *balance.Error) {
	if c.FeatureID == "" {
		return nil, invalid("feature_id is missing")
	}
	feature := c.rules.catalog.Feature(c.FeatureID)
	switch {
	case feature == nil:
		return nil, balance.NewError(balance.FeatureNotFound)
	case feature.Type == balance.Boolean:
		return nil, invalid("%s is boolean: it has no balance; attach a plan that includes it", feature.ID)
	}
	return feature, nil
}

// units reads an amount of a feature.
func units(field, text string, feature *balance.Feature) (int64, *balance.Error) {
	n, err := balance.ParseUnits(text, feature.Precision)
	if err != nil {
		return 0, wire.AmountError(field, text, feature, err)
	}
	return n, nil
}
