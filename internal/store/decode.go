package store

import (
	"errors"
	"fmt"

	"github.com/tinylib/msgp/msgp"

	"tollgate/internal/balance"
)

// markRepeated marks an outcome as MARK.repeated of scripts/lib/outcome.lua does.
const markRepeated = 1

// errOutcome says that an outcome is not what the scripts write.
var errOutcome = errors.New("malformed outcome")

// decoder reads MessagePack as the scripts pack it. The first error sticks, and
// what is read after it is zero.
type decoder struct {
	rest []byte
	err  error
}

func (d *decoder) fail(err error) {
	if d.err == nil {
		d.err = fmt.Errorf("%w: %w", errOutcome, err)
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

// balanceFields and balanceDetails are the numbers of elements of B in
// scripts/lib/fields.lua, those that are packed by themselves left aside.
const (
	balanceFields  = 12
	balanceDetails = 13
)

func (d *decoder) balance(entity string) balance.Balance {
	d.array(balanceFields)
	b := balance.Balance{Entity: entity, IncludedLeft: d.int(), PrepaidLeft: d.int(), Over: d.int(), FromRollovers: d.int()}
	b.ResetsAt, b.ExpiresAt, b.Unlimited = d.int(), d.int(), d.int() == 1
	b.Shared, b.OverageAllowed, b.MaxPurchase = d.int() == 1, d.int() == 1, d.int()
	for range d.array(0) {
		d.array(3)
		b.Rollovers = append(b.Rollovers, balance.RolledOver{Held: d.int(), Remaining: d.int(), ExpiresAt: d.int()})
	}
	details := decoder{rest: d.bytes()}
	details.array(balanceDetails)
	if b.PlanID = details.string(); b.PlanID == "" {
		b.GrantID = details.string()
	} else {
		b.ItemNumber = int(details.int())
	}
	details.skip() // rank
	details.skip() // seq
	details.skip() // anchor
	b.Interval, b.IntervalCount = details.interval(), int(details.int())
	b.Included, b.Prepaid = details.int(), details.int()
	if details.err != nil {
		d.fail(details.err)
	}
	return b
}

// snapshot is a pool with its balances by owner, which lines refer to.
type snapshot struct {
	pool   balance.Pool
	owners [][]balance.Balance
}

// snapshot reads {feature, entity, packed balances, …}. The first owner tells
// whose view it is: as the customer sees it, an entity's balance counts only where
// it is shared.
func (d *decoder) snapshot() snapshot {
	owners := (d.array(1) - 1) / 2
	s := snapshot{pool: balance.Pool{FeatureID: d.string()}}
	customerView := false
	for i := range owners {
		entity, packed := d.string(), d.bytes()
		customerView = customerView || (i == 0 && entity == "")
		var balances []balance.Balance
		if len(packed) > 0 {
			inner := decoder{rest: packed}
			balances = make([]balance.Balance, inner.array(0))
			for j := range balances {
				balances[j] = inner.balance(entity)
			}
			if inner.err != nil {
				d.fail(inner.err)
			}
		}
		s.owners = append(s.owners, balances)
		for _, b := range balances {
			if entity == "" || !customerView || b.Shared {
				s.pool.Balances = append(s.pool.Balances, b)
			}
		}
	}
	return s
}

// lines reads deductions: owner, balance, amount, kind each.
func (d *decoder) lines(of snapshot) []balance.Deduction {
	var deductions []balance.Deduction
	for range d.array(0) / 4 {
		owner, place, amount, kind := d.int(), d.int(), d.int(), d.int()
		if d.err != nil {
			return nil
		}
		if owner < 0 || int(owner) >= len(of.owners) || place < 0 || int(place) >= len(of.owners[owner]) ||
			kind < 1 || int(kind) > len(balance.Kinds) {
			d.fail(fmt.Errorf("line %d/%d of kind %d", owner, place, kind))
			return nil
		}
		deductions = append(deductions, balance.Deduction{
			Balance: &of.owners[owner][place], Amount: amount, Kind: balance.Kinds[kind-1],
		})
	}
	return deductions
}
