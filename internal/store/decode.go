package store

import (
	"errors"
	"fmt"
	"math"

	"github.com/tinylib/msgp/msgp"

	"tollgate/internal/balance"
)

var (
	markDecided, markRepeated = number("MARK", "decided"), number("MARK", "repeated")
	markQuick, markPair       = number("MARK", "quick"), number("MARK", "pair")
	markLock                  = number("MARK", "lock")
)

// open is the outcome of a reply, that of the first request where an idempotency key is repeated, with
// the first request's memo.
func open(reply Reply) (outcome []byte, repeats bool, memo []byte, err error) {
	if len(reply.outcome) == 0 || int64(reply.outcome[0]) != markRepeated {
		return reply.outcome, false, nil, nil
	}
	b := binaryReader{rest: reply.outcome[1:]}
	memo, outcome = b.text(4), b.text(4)
	return outcome, true, memo, b.err
}

// errOutcome says that an outcome is not what the scripts write.
var errOutcome = errors.New("malformed outcome")

// decoder reads MessagePack as the scripts pack it. The first error sticks, and
// what is read after it is zero.
type decoder struct {
	rest []byte
	sticky
}

// sticky keeps the first error.
type sticky struct{ err error }

func (s *sticky) fail(err error) {
	if s.err == nil && err != nil {
		s.err = fmt.Errorf("%w: %w", errOutcome, err)
	}
}

// array reads the head of a list, which must have at least so many elements.
func (d *decoder) array(least uint32) int {
	if d.err != nil {
		return 0
	}
	n, rest, err := msgp.ReadArrayHeaderBytes(d.rest)
	if err != nil {
		d.fail(err)
		return 0
	}
	if n < least || int(n) > len(rest) {
		d.fail(fmt.Errorf("a list of %d", n))
		return 0
	}
	d.rest = rest
	return int(n)
}

func (d *decoder) int() int64 {
	if d.err != nil {
		return 0
	}
	n, rest, err := msgp.ReadInt64Bytes(d.rest)
	if err != nil {
		d.fail(err)
		return 0
	}
	d.rest = rest
	return n
}

func (d *decoder) bytes() []byte {
	if d.err != nil {
		return nil
	}
	text, rest, err := msgp.ReadStringZC(d.rest)
	if err != nil {
		d.fail(err)
		return nil
	}
	d.rest = rest
	return text
}

func (d *decoder) string() string { return string(d.bytes()) }

func (d *decoder) skip() {
	if d.err != nil {
		return
	}
	rest, err := msgp.Skip(d.rest)
	if err != nil {
		d.fail(err)
		return
	}
	d.rest = rest
}

func (d *decoder) interval() balance.Interval {
	n := d.int()
	if n < 0 || int(n) >= len(balance.Intervals) {
		d.fail(fmt.Errorf("interval %d", n))
		return balance.NoInterval
	}
	return balance.Intervals[n]
}

// sum reads a sum of the scripts: as two numbers, see add_exactly in scripts/lib/sums.lua.
// What passes an int64 is shown as its largest.
func (d *decoder) sum() int64 {
	millions, rest := d.int(), d.int()
	if millions >= math.MaxInt64/1_000_000 {
		return math.MaxInt64
	}
	return millions*1_000_000 + rest
}

var (
	_ = inOrder("B", "included_left", "included", "resets", "expires", "flags", "details",
		"prepaid_left", "over", "from_rollovers", "prepaid", "max", "rollovers", "held")
	detailValues   = uint32(inOrder("D", "plan", "id", "rank", "seq", "anchor", "unit", "count", "rollover_max", "rollover_months", "times", "added"))
	rolloverValues = inOrder("R", "held", "each", "n", "taken", "expires", "step")

	flagUnlimited, flagShared, flagOverage = number("FLAG", "unlimited"), number("FLAG", "shared"), number("FLAG", "overage")
	flagMore                               = number("FLAG", "more")
)

// poolStart are the bytes of a pool that say with which balance a deduction starts.
const poolStart = 3

// readPool reads a pool (formats.small, formats.large of scripts/lib/layout.lua).
func readPool(packed []byte, entity string) ([]balance.Balance, error) {
	if len(packed) == 0 {
		return nil, nil
	}
	r := poolReader{binaryReader: binaryReader{rest: packed[1:]}, amount: 4, time: 6}
	if packed[0] != 0 {
		r.amount, r.time = 7, 7
	}
	r.unsigned(r.time) // due
	r.take(poolStart)
	var all []balance.Balance
	for r.more() {
		all = append(all, r.balance(entity))
	}
	return all, r.err
}

type poolReader struct {
	binaryReader
	amount, time int // bytes
}

func (r *poolReader) balance(entity string) balance.Balance {
	b := balance.Balance{
		Entity: entity, IncludedLeft: r.unsigned(r.amount), Included: r.unsigned(r.amount),
		ResetsAt: r.unsigned(r.time), ExpiresAt: r.unsigned(r.time), MaxPurchase: balance.Unbounded,
	}
	flags := r.unsigned(1)
	b.Unlimited, b.Shared, b.OverageAllowed = flags&flagUnlimited != 0, flags&flagShared != 0, flags&flagOverage != 0
	details := decoder{rest: r.text(2)}
	if flags&flagMore != 0 {
		b.PrepaidLeft, b.Over, b.FromRollovers, b.Prepaid = r.unsigned(r.amount), r.unsigned(r.amount), r.unsigned(r.amount), r.unsigned(r.amount)
		b.MaxPurchase = r.unsigned(r.amount) - 1
		b.Held = r.unsigned(r.amount)
		b.Rollovers = r.rollovers()
	}
	details.array(detailValues)
	if b.PlanID = details.string(); b.PlanID == "" {
		b.GrantID = details.string()
	} else {
		b.ItemNumber = int(details.int())
	}
	details.skip() // rank
	details.skip() // seq
	details.skip() // anchor
	b.Interval, b.IntervalCount = details.interval(), int(details.int())
	r.fail(details.err)
	return b
}

func (r *poolReader) rollovers() (runs []balance.RolloverRun) {
	packed := decoder{rest: r.text(4)}
	if len(packed.rest) == 0 {
		return nil
	}
	for range packed.array(0) / rolloverValues {
		runs = append(runs, balance.RolloverRun{
			Held: packed.int(), Each: packed.int(), N: packed.int(), Taken: packed.int(), ExpiresAt: packed.int(), StepMs: packed.int(),
		})
	}
	r.fail(packed.err)
	return runs
}

// snapshot is a pool with its balances by part, which lines refer to.
type snapshot struct {
	pool  balance.Pool
	parts [][]balance.Balance
	whole int // SNAPSHOT.whole
	shown int // parts that the pool shows
	// rolling are the parts behind these whose rollovers the pool shows.
	rolling int
}

var (
	_ = inOrder("SNAPSHOT", "feature", "whole", "totals")
	_ = inOrder("TOTALS", "shown_parts", "rollover_parts", "granted_millions", "granted", "remaining_millions", "remaining", "usage_millions", "usage",
		"held_millions", "held", "unlimited", "overage", "bounded", "max_millions", "max", "next_reset")
)

// snapshot reads what snapshot_of (scripts/lib/choose.lua) makes.
func (d *decoder) snapshot() snapshot {
	parts := (d.array(3) - 3) / 2
	s := snapshot{pool: balance.Pool{FeatureID: d.string()}}
	s.whole = int(d.int())
	s.shown = parts
	d.totals(&s)
	for range parts {
		entity := d.string()
		d.fail(s.add(entity, d.bytes()))
	}
	return s
}

func (d *decoder) totals(s *snapshot) {
	if d.array(0) == 0 {
		return
	}
	s.shown, s.rolling = int(d.int()), int(d.int())
	t := &balance.Totals{Granted: d.sum(), Remaining: d.sum(), Usage: d.sum(), Held: d.sum(), Unlimited: d.int() == 1, OverageAllowed: d.int() == 1}
	bounded, most := d.int() == 1, d.sum()
	t.MaxPurchase, t.NextResetAt = balance.Unbounded, d.int()
	if bounded && t.OverageAllowed {
		t.MaxPurchase = most
	}
	s.pool.Totals = t
}

// add adds a part.
func (s *snapshot) add(entity string, packed []byte) error {
	balances, err := readPool(packed, entity)
	part := len(s.parts)
	s.parts = append(s.parts, balances)
	if part >= s.shown {
		if part < s.shown+s.rolling {
			s.pool.Rolling = append(s.pool.Rolling, balances...)
		}
		return err
	}
	if s.whole == 0 && len(s.pool.Balances) == 0 { // nearly always
		s.pool.Balances = balances
		return err
	}
	for _, b := range balances {
		if s.whole == 0 || part < s.whole || b.Shared {
			s.pool.Balances = append(s.pool.Balances, b)
		}
	}
	return err
}

// line is a deduction by part and place of its balance.
func (s *snapshot) line(part, place, amount, kind int64) (balance.Deduction, error) {
	if part < 0 || int(part) >= len(s.parts) || place < 0 || int(place) >= len(s.parts[part]) || kind < 1 || int(kind) > len(balance.Kinds) {
		return balance.Deduction{}, fmt.Errorf("%w: line %d/%d of kind %d", errOutcome, part, place, kind)
	}
	return balance.Deduction{Balance: &s.parts[part][place], Amount: amount, Kind: balance.Kinds[kind-1]}, nil
}

// lines reads deductions: part, balance, amount, kind each.
func (d *decoder) lines(of *snapshot) []balance.Deduction {
	var deductions []balance.Deduction
	for range d.array(0) / 4 {
		line, err := of.line(d.int(), d.int(), d.int(), d.int())
		if d.fail(err); d.err != nil {
			return nil
		}
		deductions = append(deductions, line)
	}
	return deductions
}
