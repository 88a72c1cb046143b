package oracle

import (
	"time"

	"tollgate/internal/balance"
)

// monthsOf is the length of an interval in months, 0 where it has a fixed length.
var monthsOf = map[balance.Interval]int{balance.Month: 1, balance.Quarter: 3, balance.SemiAnnual: 6, balance.Year: 12}

var fixedLength = map[balance.Interval]time.Duration{
	balance.Minute: time.Minute, balance.Hour: time.Hour, balance.Day: 24 * time.Hour, balance.Week: 7 * 24 * time.Hour,
}

// averageLength orders periods by their length.
func averageLength(reset balance.Reset) time.Duration {
	const averageMonth = 2629746 * time.Second
	if months := monthsOf[reset.Interval]; months > 0 {
		return time.Duration(months*reset.Count) * averageMonth
	}
	return fixedLength[reset.Interval] * time.Duration(reset.Count)
}

func hasPeriod(reset balance.Reset) bool {
	return reset.Interval != balance.NoInterval && reset.Interval != balance.OneOff
}

// addMonths keeps the day of the month, or takes the month's last.
func addMonths(at time.Time, months int) time.Time {
	first := time.Date(at.Year(), at.Month()+time.Month(months), 1, at.Hour(), at.Minute(), at.Second(), at.Nanosecond(), time.UTC)
	lastDay := first.AddDate(0, 1, -1).Day()
	return first.AddDate(0, 0, min(at.Day(), lastDay)-1)
}

// boundary is the k-th end of a period after the anchor (semantics: Periods).
func boundary(anchor time.Time, reset balance.Reset, k int) time.Time {
	if months := monthsOf[reset.Interval]; months > 0 {
		return addMonths(anchor, k*reset.Count*months)
	}
	return anchor.Add(time.Duration(k*reset.Count) * fixedLength[reset.Interval])
}

// nextBoundary is the first end of a period after a time, and after the anchor. It
// counts the periods one by one.
func nextBoundary(anchor time.Time, reset balance.Reset, after time.Time) time.Time {
	if !hasPeriod(reset) {
		return time.Time{}
	}
	k := 1
	if length := fixedLength[reset.Interval] * time.Duration(reset.Count); length > 0 {
		k = max(1, int(after.Sub(anchor)/length))
	}
	for ; !boundary(anchor, reset, k).After(after); k++ {
	}
	return boundary(anchor, reset, k)
}

// rolloverExpiry is when what is rolled over at a reset ends, zero for never.
func rolloverExpiry(anchor time.Time, reset balance.Reset, months int, resetAt time.Time) time.Time {
	if months == 0 {
		return time.Time{}
	}
	if monthsOf[reset.Interval] == 0 {
		return addMonths(resetAt, months)
	}
	between := 12*(resetAt.Year()-anchor.Year()) + int(resetAt.Month()-anchor.Month())
	return addMonths(anchor, between+months)
}
