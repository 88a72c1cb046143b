package store

import (
	"strconv"

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
	flagFeature := ""
	if check.Flag {
		flagFeature = check.FeatureID
	}
	args := make([]any, 0, 4+2*len(check.Needs))
	mode := strconv.Itoa(bit(check.Deduct))
	if check.Refusal != nil {
		mode = check.Refusal.Error()
	}
	args = append(args, check.Entity, mode, bit(check.Preview), flagFeature)
	args = append(args, needArgs(check.Needs)...)
	return s.call(checkScript, check.Step, CheckKind, items.byFeature[check.FeatureID], args...)
}

// overflow marks a need that does not fit, see scripts/lib/choose.lua.
const overflow = "!"

func needArgs(needs []Need) []any {
	args := make([]any, 0, 2*len(needs))
	for _, need := range needs {
		if need.Overflows {
			args = append(args, need.FeatureID, overflow)
		} else {
			args = append(args, need.FeatureID, need.Units)
		}
	}
	return args
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
	d.array(0)
	out := &CheckOutcome{}
	if d.int() == markRepeated {
		out.Repeats, out.Memo = true, d.bytes()
		d = decoder{rest: d.bytes()}
		d.array(0)
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
