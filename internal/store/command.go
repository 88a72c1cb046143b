package store

import (
	"fmt"
	"time"

	"github.com/tinylib/msgp/msgp"

	"tollgate/internal/balance"
)

var (
	customerPutScript    = newScript("customer_put")
	customerGetScript    = newScript("customer_get")
	customerDeleteScript = newScript("customer_delete")
	planAttachScript     = newScript("plan_attach")
	planDetachScript     = newScript("plan_detach")
	entityCreateScript   = newScript("entity_create")
	entityDeleteScript   = newScript("entity_delete")
	balanceGrantScript   = newScript("balance_grant")
	balanceUpdateScript  = newScript("balance_update")
	trackScript          = newScript("track")
	refuseScript         = newScript("refuse")
)

// command makes the call of a command's script, with text, bytes and integers as arguments.
func (s *Store) command(run *script, step Step, items *Items, args ...any) Call {
	packed := msgp.AppendArrayHeader(nil, uint32(len(args)))
	return s.call(run, step, CommandKind, items, items.all, appendValues(packed, args...))
}

func appendValues(dst []byte, values ...any) []byte {
	for _, value := range values {
		switch v := value.(type) {
		case string:
			dst = msgp.AppendString(dst, v)
		case []byte:
			dst = msgp.AppendStringFromBytes(dst, v)
		case int64:
			dst = msgp.AppendInt64(dst, v)
		default:
			panic(fmt.Sprintf("an argument of type %T", value))
		}
	}
	return dst
}

// CustomerPut creates or updates a customer; "" leaves a field as it is. metadata
// is a JSON text.
func (s *Store) CustomerPut(step Step, items *Items, name, email, metadata string) Call {
	return s.command(customerPutScript, step, items, name, email, metadata, items.defaults)
}

// CustomerGet asks for everything known of a customer.
func (s *Store) CustomerGet(step Step, items *Items) Call {
	return s.command(customerGetScript, step, items)
}

// CustomerDelete removes a customer and all of its state.
func (s *Store) CustomerDelete(step Step, items *Items) Call {
	return s.command(customerDeleteScript, step, items)
}

// PlanAttach attaches a plan to the customer, or to an entity where it is not "".
// quantities are the prepaid units bought, by feature.
func (s *Store) PlanAttach(step Step, items *Items, entity string, plan *balance.Plan, quantities map[string]int64, startsAt time.Time) Call {
	return s.command(planAttachScript, step, items, entity,
		packPlan(items.catalog, plan, quantities), startsAt.UnixMilli())
}

// PlanDetach detaches a plan.
func (s *Store) PlanDetach(step Step, items *Items, entity, planID string) Call {
	return s.command(planDetachScript, step, items, entity, planID)
}

// EntityCreate creates an entity and counts its seat; needs are the candidates
// for one seat of the feature.
func (s *Store) EntityCreate(step Step, items *Items, entity, featureID, name string, needs []Need) Call {
	args := msgp.AppendArrayHeader(nil, uint32(4+2*len(needs)))
	args = appendValues(args, entity, featureID, name, items.perEntity[featureID])
	return s.call(entityCreateScript, step, CommandKind, items, items.all, appendNeeds(args, needs))
}

// SeatNeeds are the candidates for giving back one seat of a feature.
type SeatNeeds struct {
	FeatureID string
	Needs     []Need
}

// EntityDelete removes an entity and gives its seat back. featureID is what the
// caller believes its seat to be, "" for no matter; seats lists every feature
// that it can be.
func (s *Store) EntityDelete(step Step, items *Items, entity, featureID string, seats []SeatNeeds) Call {
	packed := msgp.AppendArrayHeader(nil, uint32(2*len(seats)))
	for _, seat := range seats {
		packed = msgp.AppendString(packed, seat.FeatureID)
		packed = msgp.AppendArrayHeader(packed, uint32(2*len(seat.Needs)))
		packed = appendNeeds(packed, seat.Needs)
	}
	return s.command(entityDeleteScript, step, items, entity, featureID, packed)
}

// Grant is a standalone balance to be.
type Grant struct {
	Entity    string
	FeatureID string
	BalanceID string // "" to have one made
	Units     int64
	Unlimited bool
	Reset     balance.Reset
	ExpiresMs int64 // 0: never
}

// BalanceGrant makes a standalone balance.
func (s *Store) BalanceGrant(step Step, items *Items, grant Grant) Call {
	item := balance.Item{
		FeatureID: grant.FeatureID, Number: 1, Included: grant.Units, Unlimited: grant.Unlimited, Reset: grant.Reset,
	}
	return s.command(balanceGrantScript, step, items, grant.Entity, grant.FeatureID, grant.BalanceID,
		appendItem(nil, items.catalog, &item), grant.ExpiresMs)
}

// Field is what BalanceUpdate changes.
type Field string

// The fields of a balance that can be updated.
const (
	FieldRemaining Field = "remaining"
	FieldUsage     Field = "usage"
	FieldAdd       Field = "add"
)

// BalanceUpdate corrects a balance, or the pool as a whole where balanceID is "".
func (s *Store) BalanceUpdate(step Step, items *Items, entity, featureID, balanceID string, field Field, units int64) Call {
	return s.command(balanceUpdateScript, step, items, entity, featureID, balanceID, string(field), units)
}

// Track records usage of one or more features without asking; each has its own
// candidates. overageBehavior is cap, reject or allow.
func (s *Store) Track(step Step, items *Items, entity, overageBehavior string, features [][]Need) Call {
	packed := msgp.AppendArrayHeader(nil, uint32(len(features)))
	for _, needs := range features {
		packed = msgp.AppendArrayHeader(packed, uint32(2*len(needs)))
		packed = appendNeeds(packed, needs)
	}
	return s.command(trackScript, step, items, entity, overageBehavior, packed)
}

// Refuse answers a command with an error, unless the record was decided before.
func (s *Store) Refuse(step Step, items *Items, err *balance.Error) Call {
	return s.command(refuseScript, step, items, err.Error())
}

// Event is usage that a command made, or would have made.
type Event struct {
	FeatureID  string       // the one asked for
	Units      int64        // of it that were asked for
	Code       balance.Code // "" where it was deducted, else why not
	Amount     int64        // units of the pool that were deducted
	Pool       balance.Pool
	Deductions []balance.Deduction
}

// AttachedPlan is a plan of a customer or of an entity.
type AttachedPlan struct {
	PlanID    string
	Entity    string
	StartedMs int64
}

// Entity is a sub-account of a customer.
type Entity struct {
	ID        string
	CreatedMs int64
	FeatureID string
	Name      string
	Pools     []balance.Pool // what it holds itself
}

// Profile is what customer.get tells beside the balances.
type Profile struct {
	CreatedMs             int64
	Name, Email, Metadata string
	Plans                 []AttachedPlan
	Flags                 []balance.Flag
	Entities              []Entity
}

// CommandOutcome is what a command did.
type CommandOutcome struct {
	Error       *balance.Error // nil where it was carried out
	EvaluatedMs int64
	Pools       []balance.Pool
	Events      []Event
	// Profile is there for CustomerGet only, GrantID for BalanceGrant.
	Profile *Profile
	GrantID string
	// Repeats and Memo as for a CheckOutcome.
	Repeats bool
	Memo    []byte
}

// DecodeCommand reads the reply to any call but Check.
func DecodeCommand(reply Reply) (*CommandOutcome, error) {
	d := decoder{rest: reply.outcome}
	out := &CommandOutcome{}
	if d.int() == markRepeated {
		out.Repeats, out.Memo = true, d.bytes()
		d = decoder{rest: d.bytes()}
		d.int()
	}
	if failure := d.string(); failure != "" {
		out.Error = balance.ParseError(failure)
	}
	out.EvaluatedMs = d.int()
	for range d.array(0) {
		out.Pools = append(out.Pools, d.snapshot().pool)
	}
	for range d.array(0) {
		d.array(6)
		event := Event{FeatureID: d.string(), Units: d.int(), Code: balance.Code(d.string()), Amount: d.int()}
		snapshot := d.snapshot()
		event.Pool, event.Deductions = snapshot.pool, d.lines(snapshot)
		out.Events = append(out.Events, event)
	}
	switch d.array(0) {
	case 1:
		out.GrantID = d.string()
	case 7:
		out.Profile = d.profile()
	}
	return out, d.err
}

func (d *decoder) profile() *Profile {
	p := &Profile{CreatedMs: d.int(), Name: d.string(), Email: d.string(), Metadata: d.string()}
	for range d.array(0) {
		d.array(2)
		plan := AttachedPlan{Entity: d.string()}
		fields := d.array(4)
		plan.PlanID = d.string()
		d.skip() // group
		d.skip() // rank
		plan.StartedMs = d.int()
		for range fields - 4 {
			d.skip()
		}
		p.Plans = append(p.Plans, plan)
	}
	for range d.array(0) {
		d.array(3)
		flag := balance.Flag{FeatureID: d.string(), Entity: d.string()}
		d.array(2)
		flag.PlanID, flag.ExpiresAt = d.string(), d.int()
		p.Flags = append(p.Flags, flag)
	}
	for range d.array(0) {
		d.array(3)
		entity := Entity{ID: d.string()}
		d.array(3)
		entity.CreatedMs, entity.FeatureID, entity.Name = d.int(), d.string(), d.string()
		for range d.array(0) {
			entity.Pools = append(entity.Pools, d.snapshot().pool)
		}
		p.Entities = append(p.Entities, entity)
	}
	return p
}
