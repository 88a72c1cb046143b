package store

import (
	"cmp"
	"container/heap"
	"math"
	"slices"
	"time"
)

// The walker: periods and rollovers by applying every reset, one by one.

const (
	maxUnits                     = 1<<53 - 1
	feature                      = "f"
	balanceSize                  = 13 // values of B, among them these texts
	detailsPlace, rolloversPlace = 5, 11
	runSize                      = 6 // values of R
	never                        = int64(0)
	unbounded                    = -1
	unlimitedBit                 = 1
	sharedBit                    = 2
	overageBit                   = 4
)

// Units of a period, as in UNIT of scripts/lib/layout.lua.
const (
	noUnit = iota
	minuteUnit
	hourUnit
	dayUnit
	weekUnit
	monthUnit
	quarterUnit
	semiAnnualUnit
	yearUnit
	oneOffUnit
)

var (
	fixedMs = map[int]int64{
		minuteUnit: time.Minute.Milliseconds(), hourUnit: time.Hour.Milliseconds(),
		dayUnit: 24 * time.Hour.Milliseconds(), weekUnit: 7 * 24 * time.Hour.Milliseconds(),
	}
	monthsIn = map[int]int{monthUnit: 1, quarterUnit: 3, semiAnnualUnit: 6, yearUnit: 12}
)

// rule is what the catalogue says of an item.
type rule struct {
	included           int64
	unlimited, overage int
	max                int64
	unit, count        int
	rolloverMax        int64
	rolloverMonths     int
}

func (r rule) hasPeriod() bool { return r.unit != noUnit && r.unit != oneOffUnit }

// shortest is about the length of a period, and no more.
func (r rule) shortest() int64 {
	if !r.hasPeriod() {
		return math.MaxInt64
	}
	if months := monthsIn[r.unit]; months > 0 {
		return int64(months*r.count) * 28 * fixedMs[dayUnit]
	}
	return int64(r.count) * fixedMs[r.unit]
}

func addMonths(at int64, months int) int64 {
	t := time.UnixMilli(at).UTC()
	first := time.Date(t.Year(), t.Month()+time.Month(months), 1, t.Hour(), t.Minute(), t.Second(), t.Nanosecond(), time.UTC)
	lastDay := first.AddDate(0, 1, -1).Day()
	return first.AddDate(0, 0, min(t.Day(), lastDay)-1).UnixMilli()
}

func boundaryAt(anchor int64, r rule, k int64) int64 {
	if months := monthsIn[r.unit]; months > 0 {
		return addMonths(anchor, int(k)*r.count*months)
	}
	return anchor + k*int64(r.count)*fixedMs[r.unit]
}

// boundaryAfter is the first end of a period after a time, and after the anchor.
func boundaryAfter(anchor int64, r rule, after int64) int64 {
	if !r.hasPeriod() {
		return never
	}
	k := max(1, (after-anchor)/(int64(r.count)*(31*fixedMs[dayUnit])*int64(max(1, monthsIn[r.unit])))-1)
	if length := int64(r.count) * fixedMs[r.unit]; length > 0 {
		k = max(1, (after-anchor)/length)
	}
	for boundaryAt(anchor, r, k) <= after {
		k++
	}
	return boundaryAt(anchor, r, k)
}

func expiryOf(anchor int64, unit, months int, resetAt int64) int64 {
	if months == 0 {
		return never
	}
	if monthsIn[unit] == 0 {
		return addMonths(resetAt, months)
	}
	from, to := time.UnixMilli(anchor).UTC(), time.UnixMilli(resetAt).UTC()
	return addMonths(anchor, 12*(to.Year()-from.Year())+int(to.Month()-from.Month())+months)
}

type rolledOver struct{ held, left, expires int64 }

// walkedRollover is one of the walker's. It is gone where it expired, or made way.
type walkedRollover struct {
	rolledOver
	gone bool
}

// byExpiry is a heap.
type byExpiry []*walkedRollover

func (h byExpiry) Len() int           { return len(h) }
func (h byExpiry) Less(i, j int) bool { return h[i].expires < h[j].expires }
func (h byExpiry) Swap(i, j int)      { h[i], h[j] = h[j], h[i] }
func (h *byExpiry) Push(r any)        { *h = append(*h, r.(*walkedRollover)) }
func (h *byExpiry) Pop() any {
	last := len(*h) - 1
	r := (*h)[last]
	*h = (*h)[:last]
	return r
}

// walked is a balance of the walker.
type walked struct {
	rule
	plan                      string
	shared                    int
	anchor, resets            int64
	times, added              int64
	includedLeft, prepaidLeft int64
	prepaid                   int64
	over, fromRollovers, held int64
	rollovers                 []*walkedRollover // oldest first
	expiring                  byExpiry          // those of them that expire
	left                      int64             // of the rollovers
	taken                     bool              // from rollovers, since the last reset
}

func (b *walked) drop(r *walkedRollover) {
	b.left -= r.left
	r.left, r.gone = 0, true
}

func (b *walked) dropExpired(now int64) {
	for len(b.expiring) > 0 && b.expiring[0].expires <= now {
		b.drop(heap.Pop(&b.expiring).(*walkedRollover))
	}
}

// rollOver makes what is left at a reset a rollover; the oldest make way.
func (b *walked) rollOver(left, expires int64) {
	if left > 0 {
		r := &walkedRollover{rolledOver: rolledOver{left, left, expires}}
		b.rollovers, b.left = append(b.rollovers, r), b.left+left
		if expires != never {
			heap.Push(&b.expiring, r)
		}
	}
	for b.left > b.rolloverMax {
		oldest, surplus := b.rollovers[0], b.left-b.rolloverMax
		if surplus < oldest.left {
			oldest.left -= surplus
			oldest.held = oldest.left
			b.left -= surplus
		} else {
			b.drop(oldest)
			b.rollovers = b.rollovers[1:]
		}
	}
}

// settle applies every reset due, one after the other.
func (b *walked) settle(now int64, catalog map[string]rule) {
	for b.resets != never && b.resets <= now {
		at, left, unit := b.resets, b.includedLeft+b.prepaidLeft, b.unit
		b.included, b.added = b.included-b.added, 0
		if today, ok := catalog[b.plan]; ok {
			today.included = min(today.included*b.times, maxUnits-b.prepaid)
			b.rule = today
		}
		b.dropExpired(at)
		if b.taken {
			for _, r := range b.rollovers {
				r.held = r.left
				r.gone = r.gone || r.left == 0
			}
			b.taken = false
		}
		if b.rolloverMax != unbounded {
			b.rollOver(left, expiryOf(b.anchor, unit, b.rolloverMonths, at))
		}
		b.includedLeft, b.prepaidLeft, b.over, b.fromRollovers, b.held = b.included, b.prepaid, 0, 0, 0
		b.resets = boundaryAfter(b.anchor, b.rule, at)
	}
	b.dropExpired(now)
	b.rollovers = slices.DeleteFunc(b.rollovers, func(r *walkedRollover) bool { return r.gone })
}

type walkedLine struct{ place, amount int64 }

// moveRollovers takes an amount from the rollovers of balances, or gives it back where it is negative.
func moveRollovers(balances []*walked, amount int64) (lines []walkedLine, moved int64) {
	type usable struct {
		place int
		r     *walkedRollover
	}
	var all []usable
	for place, b := range balances {
		for _, r := range b.rollovers {
			all = append(all, usable{place, r})
		}
	}
	expiry := func(r *walkedRollover) int64 {
		if r.expires == never {
			return math.MaxInt64
		}
		return r.expires
	}
	slices.SortStableFunc(all, func(x, y usable) int { return cmp.Compare(expiry(x.r), expiry(y.r)) })
	sign := int64(1)
	if amount < 0 {
		sign, amount = -1, -amount
		slices.Reverse(all)
	}
	for _, u := range all {
		some := min(amount-moved, u.r.left)
		if sign < 0 {
			some = min(amount-moved, u.r.held-u.r.left)
		}
		if some == 0 {
			continue
		}
		u.r.left -= sign * some
		b := balances[u.place]
		b.fromRollovers += sign * some
		b.left -= sign * some
		b.taken = true
		moved += some
		if n := len(lines); n > 0 && lines[n-1].place == int64(u.place+1) {
			lines[n-1].amount += sign * some
		} else {
			lines = append(lines, walkedLine{int64(u.place + 1), sign * some})
		}
	}
	return lines, moved
}
