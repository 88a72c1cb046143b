package store

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"github.com/tinylib/msgp/msgp"

	"tollgate/internal/balance"
)

var commandScript = newScript("command")

// packArgs packs arguments: text, bytes (packed already) and integers.
func packArgs(args ...any) []byte {
	packed := msgp.AppendArrayHeader(nil, uint32(len(args)))
	for _, value := range args {
		switch v := value.(type) {
		case string:
			packed = msgp.AppendString(packed, v)
		case []byte:
			packed = append(packed, v...)
		case int64:
			packed = msgp.AppendInt64(packed, v)
		default:
			panic(fmt.Sprintf("an argument of type %T", value))
		}
	}
	return packed
}

// command makes the call of a command.
func (s *Store) command(kind string, step Step, items *Items, args ...any) Call {
	call := s.call(commandScript, step, kind, items, items.all)
	call.args = packArgs(args...)
	return call
}

// CustomerPut creates or updates a customer; "" leaves a field as it is. metadata
// is a JSON text.
func (s *Store) CustomerPut(step Step, items *Items, name, email, metadata string) Call {
	return s.command("customer.put", step, items, name, email, metadata, items.defaults)
}

// CustomerGet asks for everything known of a customer.
func (s *Store) CustomerGet(step Step, items *Items) Call {
	return s.command("customer.get", step, items)
}

// CustomerDelete removes a customer and all of its state.
func (s *Store) CustomerDelete(step Step, items *Items) Call {
	return s.command("customer.delete", step, items)
}

// PlanAttach attaches a plan. quantities are the prepaid units bought, by feature; the zero startsAt is
// the time of the decision, which it may be ahead of by tolerance.
func (s *Store) PlanAttach(step Step, items *Items, plan *balance.Plan, quantities map[string]int64, startsAt time.Time, tolerance time.Duration) Call {
	startsMs := int64(0)
	if !startsAt.IsZero() {
		startsMs = startsAt.UnixMilli()
	}
	return s.command("plan.attach", step, items, packPlan(items.catalog, plan, quantities), startsMs, tolerance.Milliseconds(), items.kept)
}

// PlanDetach detaches a plan.
func (s *Store) PlanDetach(step Step, items *Items, planID string) Call {
	return s.command("plan.detach", step, items, planID, items.kept)
}

// EntityCreate creates an entity and counts its seat; needs are the candidates
// for one seat of the feature.
func (s *Store) EntityCreate(step Step, items *Items, featureID, name string, needs []Need) Call {
	perEntity := items.perEntity[featureID]
	if perEntity == nil {
		perEntity = packList(nil)
	}
	return s.command("entity.create", step, items, featureID, name, perEntity, packNeeds(needs))
}

// packNeeds packs needs as a list.
func packNeeds(needs []Need) []byte {
	return appendNeeds(msgp.AppendArrayHeader(nil, uint32(needValues(needs))), needs)
}

// SeatNeeds are the candidates for giving back one seat of a feature.
type SeatNeeds struct {
	FeatureID string
	Needs     []Need
}

// EntityDelete removes an entity and gives its seat back. featureID is what the
// caller believes its seat to be, "" for no matter; seats lists every feature
// that it can be.
func (s *Store) EntityDelete(step Step, items *Items, featureID string, seats []SeatNeeds) Call {
	packed := msgp.AppendArrayHeader(nil, uint32(2*len(seats)))
	for _, seat := range seats {
		packed = msgp.AppendString(packed, seat.FeatureID)
		packed = append(packed, packNeeds(seat.Needs)...)
	}
	return s.command("entity.delete", step, items, featureID, packed)
}

// Grant is a standalone balance to be.
type Grant struct {
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
	return s.command("balance.grant", step, items, grant.FeatureID, grant.BalanceID,
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
func (s *Store) BalanceUpdate(step Step, items *Items, featureID, balanceID string, field Field, units int64) Call {
	return s.command("balance.update", step, items, featureID, balanceID, string(field), units)
}

// Track records usage of one or more features without asking; each has its own
// candidates. overageBehavior is cap, reject or allow.
func (s *Store) Track(step Step, items *Items, overageBehavior string, features [][]Need) Call {
	packed := msgp.AppendArrayHeader(nil, uint32(len(features)))
	for _, needs := range features {
		packed = append(packed, packNeeds(needs)...)
	}
	return s.command("usage.track", step, items, overageBehavior, packed)
}

// Refuse answers a command with the step's refusal, unless the record was decided before.
func (s *Store) Refuse(step Step, items *Items) Call { return s.command("", step, items) }

// LockFinalize spends what a lock holds, or gives it back.
type LockFinalize struct {
	ID         string
	Action     string           // confirm or release
	Override   *balance.Decimal // to confirm, zero or more; nil: what is held
	Properties string           // a JSON object, "" for those of the check
	EventID    string           // that the usage event bears
}

// LockFinalize settles a lock.
func (s *Store) LockFinalize(step Step, items *Items, finalize LockFinalize) Call {
	digits, exponent := "", 0
	if finalize.Override != nil {
		digits, exponent = cmp.Or(finalize.Override.Digits, "0"), finalize.Override.Exponent
	}
	return s.command("lock.finalize", step, items, finalize.ID, finalize.Action, digits, int64(exponent), finalize.Properties, finalize.EventID)
}

// LockExtend changes when a lock expires.
func (s *Store) LockExtend(step Step, items *Items, id string, expiresMs int64) Call {
	call := s.command("lock.extend", step, items, id, expiresMs)
	call.lockID, call.lockExpiresMs = id, expiresMs
	return call
}

// LockExpire releases a lock if it is due; whatever else of the customer is, is applied, too.
func (s *Store) LockExpire(step Step, items *Items, id string) Call {
	return s.command("lock.expire", step, items, id)
}

// LockGet asks for a lock.
func (s *Store) LockGet(step Step, items *Items, id string) Call {
	return s.command("lock.get", step, items, id)
}

// Event is usage that a command made, or would have made.
type Event struct {
	FeatureID string         // the one asked for
	Units     int64          // of it that were asked for
	Code      balance.Code   // "" where it was deducted, else why not
	Draws     []balance.Draw // without their Need
}

// IsTaken says whether anything was deducted.
func (e *Event) IsTaken() bool {
	return slices.ContainsFunc(e.Draws, func(d balance.Draw) bool { return !d.IsEmpty() })
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
	Flags                 []balance.Flag // of the customer itself
	Entities              []Entity       // the first of them
	EntityCount           int            // of all
	Locks                 []balance.Lock // that are held
}

// LockOutcome is a lock, and what a command did with it.
type LockOutcome struct {
	balance.Lock
	Confirmed  int64  // units of the feature
	Properties string // of its usage, a JSON object, "" for none
	Forfeited  []balance.Forfeit
}

// CommandOutcome is what a command did.
type CommandOutcome struct {
	Error       *balance.Error // nil where it was carried out
	EvaluatedMs int64
	Pools       []balance.Pool
	Events      []Event
	// Profile is there for CustomerGet only, GrantID for BalanceGrant, Lock for what concerns one.
	Profile *Profile
	Lock    *LockOutcome
	GrantID string
	// Repeats and Memo as for a CheckOutcome.
	Repeats bool
	Memo    []byte
}

// ReadCommandOutcome reads the reply to any call but Check.
func ReadCommandOutcome(reply Reply) (*CommandOutcome, error) {
	outcome, repeats, memo, err := open(reply)
	if err != nil {
		return nil, err
	}
	out := &CommandOutcome{Repeats: repeats, Memo: memo}
	d := decoder{rest: outcome}
	d.array(6)
	if mark := d.int(); mark != markDecided {
		d.fail(fmt.Errorf("mark %d", mark))
	}
	if failure := d.string(); failure != "" {
		out.Error = balance.ParseError(failure)
	}
	out.EvaluatedMs = d.int()
	for range d.array(0) {
		out.Pools = append(out.Pools, d.snapshot().pool)
	}
	for range d.array(0) {
		fields := d.array(4)
		event := Event{FeatureID: d.string(), Units: d.int(), Code: balance.Code(d.string())}
		for range d.array(3) / 3 {
			draw := balance.Draw{Amount: d.int()}
			snapshot := d.snapshot()
			draw.Pool, draw.Deductions = snapshot.pool, d.lines(&snapshot)
			event.Draws = append(event.Draws, draw)
		}
		if fields > 4 {
			d.linesOfLock(&event)
		}
		out.Events = append(out.Events, event)
	}
	switch d.array(0) {
	case 1:
		out.GrantID = d.string()
	case 9:
		out.Profile = d.profile()
	case 10:
		out.Lock = d.lock()
	}
	return out, d.err
}

var (
	_ = inOrder("P", "id", "group", "rank", "started", "bought", "times")
	_ = inOrder("F", "feature", "plan", "expires")
)

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
		p.Flags = append(p.Flags, balance.Flag{FeatureID: d.string(), PlanID: d.string(), ExpiresAt: d.int()})
	}
	for range d.array(0) {
		d.array(5)
		entity := Entity{ID: d.string(), CreatedMs: d.int(), FeatureID: d.string(), Name: d.string()}
		for range d.array(0) {
			entity.Pools = append(entity.Pools, d.snapshot().pool)
		}
		p.Entities = append(p.Entities, entity)
	}
	p.EntityCount = int(d.int())
	for range d.array(0) / heldValues {
		lock := balance.Lock{ID: d.string(), ExpiresMs: d.int(), FeatureID: d.string(), Entity: d.string(), Units: d.int(), State: balance.LockHeld}
		p.Locks = append(p.Locks, lock)
	}
	return p
}

var (
	heldValues = inOrder("HELD", "id", "expires", "feature", "entity", "value")
	lockStates = map[int64]balance.LockState{
		number("STATE", "held"): balance.LockHeld, number("STATE", "confirmed"): balance.LockConfirmed,
		number("STATE", "released"): balance.LockReleased, number("STATE", "expired"): balance.LockHasExpired,
	}
)

// linesOfLock reads what a lock took, which may be of balances that are gone: pool, entity, plan, the item's number or
// the grant's id, kind, amount.
func (d *decoder) linesOfLock(event *Event) {
	const values = 6
	for range d.array(0) / values {
		pool := d.string()
		b := &balance.Balance{Entity: d.string(), PlanID: d.string()}
		if b.PlanID == "" {
			b.GrantID = d.string()
		} else {
			b.ItemNumber = int(d.int())
		}
		kind, amount := d.int(), d.int()
		draw := slices.IndexFunc(event.Draws, func(draw balance.Draw) bool { return draw.Pool.FeatureID == pool })
		if draw < 0 || kind < 1 || int(kind) > len(balance.Kinds) {
			d.fail(fmt.Errorf("a line of %q of kind %d", pool, kind))
			return
		}
		deductions := &event.Draws[draw].Deductions
		*deductions = append(*deductions, balance.Deduction{Balance: b, Amount: amount, Kind: balance.Kinds[kind-1]})
	}
}

// lock reads what extra_of_lock (scripts/lib/locks.lua) makes.
func (d *decoder) lock() *LockOutcome {
	l := &LockOutcome{Lock: balance.Lock{ID: d.string(), FeatureID: d.string(), Entity: d.string(), Units: d.int(), ExpiresMs: d.int()}}
	state := d.int()
	if l.State = lockStates[state]; l.State == "" {
		d.fail(fmt.Errorf("state %d of a lock", state))
		return nil
	}
	l.Confirmed, l.Properties = d.int(), d.string()
	for range d.array(0) / 2 {
		l.Forfeited = append(l.Forfeited, balance.Forfeit{FeatureID: d.string(), Units: d.int()})
	}
	d.skip() // what it is
	return l
}
