package store

import (
	"fmt"

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
	Flag      bool   // the feature is boolean; then there are no needs
	Needs     []Need // the feature's own pool first
	Deduct    bool
	Preview   bool
}

var (
	checkScript = newScript("check")

	askedDeduct, askedPreview = number("ASKED", "deduct"), number("ASKED", "preview")
)

// Check makes the call of check.lua. Its reply is read by ReadCheckOutcome.
func (s *Store) Check(check *Check, items *Items) Call {
	flag := ""
	if check.Flag {
		flag = check.FeatureID
	}
	call := s.call(checkScript, check.Step, flag, items, items.byFeature[check.FeatureID])
	call.needs = check.Needs
	if check.Deduct {
		call.asked += askedDeduct
	}
	if check.Preview {
		call.asked += askedPreview
	}
	return call
}

// appendNeeds packs needs, two values each; that of a need that does not fit is false (scripts/lib/choose.lua).
func appendNeeds(dst []byte, needs []Need) []byte {
	for _, need := range needs {
		dst = msgp.AppendString(dst, need.FeatureID)
		if need.Overflows {
			dst = msgp.AppendBool(dst, false)
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

// ReadCheckOutcome reads the reply to a Check (formats.quick and formats.check of scripts/lib/layout.lua).
func ReadCheckOutcome(reply Reply) (*CheckOutcome, error) {
	outcome, repeats, memo, err := open(reply)
	if err != nil {
		return nil, err
	}
	out := &CheckOutcome{Repeats: repeats, Memo: memo}
	r := binaryReader{rest: outcome}
	switch mark := r.unsigned(1); mark {
	case markDecided:
		r.checkOutcome(out)
	case markQuick:
		r.quickOutcome(out)
	default:
		r.fail(fmt.Errorf("mark %d", mark))
	}
	if r.err != nil {
		return nil, r.err
	}
	return out, nil
}

// checkOutcome reads formats.check, behind its mark.
func (r *binaryReader) checkOutcome(out *CheckOutcome) {
	code := r.text(2) // an error's with its message
	if out.Code = balance.Code(code); out.Code.IsError() {
		out.Error = balance.ParseError(string(code))
		out.Code = out.Error.Code
	}
	out.EvaluatedMs, out.Need = r.unsigned(7), r.signed(8)
	s := snapshot{}
	s.pool.FeatureID = string(r.text(2))
	out.PoolFeatureID, out.Amount = s.pool.FeatureID, r.signed(8)
	s.whole = int(r.signed(4))
	rest := decoder{rest: r.text(4)}
	parts, lines := int(r.unsigned(4)), int(r.unsigned(4))
	s.shown = parts
	if len(rest.rest) > 0 {
		rest.array(3)
		rest.totals(&s)
		if rest.array(0) > 0 {
			out.Flag = &balance.Flag{PlanID: rest.string(), ExpiresAt: rest.int()}
		}
		for range rest.array(0) {
			out.Plans = append(out.Plans, rest.string())
		}
		r.fail(rest.err)
	}
	for range parts {
		entity := string(r.text(2))
		if r.fail(s.add(entity, r.text(4))); r.err != nil {
			return
		}
	}
	for range lines {
		line, err := s.line(r.unsigned(4), r.unsigned(2), r.signed(8), r.unsigned(1))
		if r.fail(err); r.err != nil {
			return
		}
		out.Deductions = append(out.Deductions, line)
	}
	if len(s.pool.Balances) > 0 {
		out.Pool = &s.pool
	}
}

// quickOutcome reads formats.quick, behind its mark.
func (r *binaryReader) quickOutcome(out *CheckOutcome) {
	out.Code = balance.Included
	out.EvaluatedMs, out.Need = r.unsigned(7), r.unsigned(7)
	kind, place, parts := r.unsigned(1), r.unsigned(1), r.unsigned(1)
	s := snapshot{shown: int(parts)}
	s.pool.FeatureID = string(r.text(2))
	out.PoolFeatureID, out.Pool = s.pool.FeatureID, &s.pool
	for range parts {
		entity := string(r.text(2))
		r.fail(s.add(entity, r.text(4)))
	}
	if r.more() || len(s.pool.Balances) == 0 {
		r.fail(fmt.Errorf("%d parts", parts))
	}
	if kind > 0 && r.err == nil {
		line, err := s.line(0, place, out.Need, kind)
		r.fail(err)
		out.Amount, out.Deductions = out.Need, []balance.Deduction{line}
	}
}
