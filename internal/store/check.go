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
	// Factor converts a part of the amount; "" for the feature's own pool (balance.Candidate).
	Factor string
}

// Check is what check.lua decides.
type Check struct {
	Step
	FeatureID string
	Flag      bool   // the feature is boolean; then there are no needs
	Needs     []Need // the feature's own pool first
	Deduct    bool
	Preview   bool
	Lock      *LockRequest // nil unless what is required is to be held
}

// LockRequest is a lock to be.
type LockRequest struct {
	ID              string
	ExpiresMs       int64 // 0: as late as may be
	OverageBehavior string
	Properties      string         // a JSON object, "" for none
	Problem         *balance.Error // what stands against it, nil for nothing
	Precision       int            // of the feature
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
	if lock := check.Lock; lock != nil {
		problem := ""
		if lock.Problem != nil {
			problem = lock.Problem.Error()
		}
		call.lockID, call.lockExpiresMs = lock.ID, lock.ExpiresMs
		call.args = packArgs(lock.ID, lock.ExpiresMs, lock.OverageBehavior, lock.Properties, problem, int64(lock.Precision))
	}
	return call
}

// needValues is how many values appendNeeds makes of needs.
func needValues(needs []Need) int { return max(0, 3*len(needs)-1) }

// appendNeeds packs needs: a feature and the need, false if that does not fit; and but for the first, which is the
// feature's own, the factor (scripts/lib/choose.lua).
func appendNeeds(dst []byte, needs []Need) []byte {
	for i, need := range needs {
		dst = msgp.AppendString(dst, need.FeatureID)
		if need.Overflows {
			dst = msgp.AppendBool(dst, false)
		} else {
			dst = msgp.AppendInt64(dst, need.Units)
		}
		if i > 0 {
			dst = msgp.AppendString(dst, need.Factor)
		}
	}
	return dst
}

// CheckOutcome is what check.lua decided.
type CheckOutcome struct {
	Code        balance.Code
	Error       *balance.Error // nil unless Code is an error
	EvaluatedMs int64
	// Draws are the pools that an allowed check draws from, without Deduct would draw from: the feature's own before a
	// credit system. Of a denied one it is the pool that is reported. A pool without balances is one that the customer lacks.
	Draws []balance.Draw
	Flag  *balance.Flag
	// LockExpiresMs is when the lock expires that was made, 0 for none.
	LockExpiresMs int64
	Plans         []string // ids of the plans attached, for a preview
	// Repeats says that this is the outcome of an earlier request with the same
	// idempotency key; Memo is what that request left.
	Repeats bool
	Memo    []byte
}

// ReadCheckOutcome reads the reply to a Check (formats.quick, check, pair_head and lock_head of scripts/lib/layout.lua).
func ReadCheckOutcome(reply Reply) (*CheckOutcome, error) {
	outcome, repeats, memo, err := open(reply)
	if err != nil {
		return nil, err
	}
	out := &CheckOutcome{Repeats: repeats, Memo: memo}
	r := binaryReader{rest: outcome}
	if len(outcome) > 0 && int64(outcome[0]) == markLock {
		r.unsigned(1)
		out.LockExpiresMs = r.unsigned(7)
	}
	if len(r.rest) > 0 && int64(r.rest[0]) == markPair {
		r.unsigned(1)
		first := binaryReader{rest: r.text(4)}
		first.outcome(out)
		r.fail(first.err)
	}
	r.outcome(out)
	if r.err != nil {
		return nil, r.err
	}
	return out, nil
}

// outcome reads what one pool led to.
func (r *binaryReader) outcome(out *CheckOutcome) {
	switch mark := r.unsigned(1); mark {
	case markDecided:
		r.checkOutcome(out)
	case markQuick:
		r.quickOutcome(out)
	default:
		r.fail(fmt.Errorf("mark %d", mark))
	}
}

// checkOutcome reads formats.check, behind its mark.
func (r *binaryReader) checkOutcome(out *CheckOutcome) {
	code := r.text(2) // an error's with its message
	if out.Code = balance.Code(code); out.Code.IsError() {
		out.Error = balance.ParseError(string(code))
		out.Code = out.Error.Code
	}
	out.EvaluatedMs = r.unsigned(7)
	draw := balance.Draw{Need: r.signed(8)}
	s := snapshot{}
	s.pool.FeatureID = string(r.text(2))
	draw.Amount = r.signed(8)
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
		draw.Deductions = append(draw.Deductions, line)
	}
	if draw.Pool = s.pool; draw.Pool.FeatureID != "" {
		out.Draws = append(out.Draws, draw)
	}
}

// quickOutcome reads formats.quick, behind its mark.
func (r *binaryReader) quickOutcome(out *CheckOutcome) {
	out.Code = balance.Included
	out.EvaluatedMs = r.unsigned(7)
	draw := balance.Draw{Need: r.unsigned(7)}
	kind, place, parts := r.unsigned(1), r.unsigned(1), r.unsigned(1)
	s := snapshot{shown: int(parts)}
	s.pool.FeatureID = string(r.text(2))
	for range parts {
		entity := string(r.text(2))
		r.fail(s.add(entity, r.text(4)))
	}
	if r.more() || len(s.pool.Balances) == 0 {
		r.fail(fmt.Errorf("%d parts", parts))
	}
	if r.err == nil {
		line, err := s.line(0, place, draw.Need, kind)
		r.fail(err)
		draw.Amount, draw.Deductions = draw.Need, []balance.Deduction{line}
	}
	draw.Pool = s.pool
	out.Draws = append(out.Draws, draw)
}
