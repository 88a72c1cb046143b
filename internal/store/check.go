package store

import (
	"github.com/tinylib/msgp/msgp"

	"tollgate/internal/balance"
)

// Need is a pool that a check may draw from, and what it would take.
type Need struct {
	FeatureID string
	Units     int64
	Overflows bool // the amount does not fit in this pool's units
}

// Check is what check.lua decides.
type Check struct {
	Step
	FeatureID string
	Entity    string // "" for the customer
	Flag      bool   // the feature is boolean; then there are no needs
	Needs     []Need // the feature's own pool first
	Deduct    bool
	Preview   bool
	// Refusal is the error to answer with unless the record was decided before,
	// nil to decide.
	Refusal *balance.Error
}

var checkScript = newScript("check")

// Check makes the call of check.lua. Its reply is read by DecodeCheck.
func (s *Store) Check(check *Check, items *Items) Call {
	args := make([]byte, 0, 64+32*len(check.Needs))
	args = msgp.AppendArrayHeader(args, uint32(4+2*len(check.Needs)))
	args = msgp.AppendString(args, check.Entity)
	if check.Refusal != nil {
		args = msgp.AppendString(args, check.Refusal.Error())
	} else {
		args = msgp.AppendInt(args, bit(check.Deduct))
	}
	args = msgp.AppendInt(args, bit(check.Preview))
	if check.Flag {
		args = msgp.AppendString(args, check.FeatureID)
	} else {
		args = msgp.AppendString(args, "")
	}
	args = appendNeeds(args, check.Needs)
	return s.call(checkScript, check.Step, CheckKind, items, items.byFeature[check.FeatureID], args)
}

// overflow marks a need that does not fit, see scripts/lib/choose.lua.
const overflow = "!"

// appendNeeds packs needs, two elements each.
func appendNeeds(dst []byte, needs []Need) []byte {
	for _, need := range needs {
		dst = msgp.AppendString(dst, need.FeatureID)
		if need.Overflows {
			dst = msgp.AppendString(dst, overflow)
		} else {
			dst = msgp.AppendInt64(dst, need.Units)
		}
	}
	return dst
}

// CheckOutcome is what check.lua decided. Amounts are units of the pool's feature.
type CheckOutcome struct {
	Code        balance.Code
	Error       *balance.Error // nil unless Code is an error
	EvaluatedMs int64
	Need        int64
	// PoolFeatureID is the pool that was used, "" where there is none.
	PoolFeatureID string
	Pool          *balance.Pool // nil where the customer has no balance of it
	Deductions    []balance.Deduction
	Amount        int64 // that was deducted
	Flag          *balance.Flag
	Plans         []string // ids of the plans attached, for a preview
	// Repeats says that this is the outcome of an earlier request with the same
	// idempotency key; Memo is what that request left.
	Repeats bool
	Memo    []byte
}

// DecodeCheck reads the reply to a Check.
func DecodeCheck(reply Reply) (*CheckOutcome, error) {
	d := decoder{rest: reply.outcome}
	out := &CheckOutcome{}
	if d.int() == markRepeated {
		out.Repeats, out.Memo = true, d.bytes()
		d = decoder{rest: d.bytes()}
		d.int()
	}
	code := d.string()
	if out.Code = balance.Code(code); out.Code.IsError() {
		out.Error = balance.ParseError(code)
		out.Code = out.Error.Code
	}
	out.EvaluatedMs, out.Need = d.int(), d.int()
	snapshot := d.snapshot()
	out.PoolFeatureID = snapshot.pool.FeatureID
	if len(snapshot.pool.Balances) > 0 {
		out.Pool = &snapshot.pool
	}
	out.Deductions = d.lines(snapshot)
	out.Amount = d.int()
	if n := d.array(0); n > 0 {
		out.Flag = &balance.Flag{PlanID: d.string(), ExpiresAt: d.int()}
	}
	for range d.array(0) {
		out.Plans = append(out.Plans, d.string())
	}
	return out, d.err
}
