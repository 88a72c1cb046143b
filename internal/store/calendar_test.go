package store

import (
	"fmt"
	"maps"
	"math"
	"testing"
	"time"

	"pgregory.net/rapid"

	"tollgate/internal/servertest"
)

// drawPool draws a case: balances of the same pool, and what happens to them.
func drawPool(t *rapid.T) ([]*walked, []calendarCommand) {
	const mostResets = 30_000 // that the walker walks; fewer where balances can take turns in every line
	of := func(name string, values ...int64) int64 { return rapid.SampledFrom(values).Draw(t, name) }
	between := func(name string, from, to int64) int64 { return rapid.Int64Range(from, to).Draw(t, name) }
	const day = int64(24 * 60 * 60 * 1000)

	drawRule := func() rule {
		r := rule{
			included: of("included", 0, 1, 1, 3, 100, 100, maxUnits/2, maxUnits),
			max:      of("max", unbounded, 5),
			unit:     int(of("unit", minuteUnit, minuteUnit, hourUnit, hourUnit, dayUnit, dayUnit, weekUnit, monthUnit, monthUnit, quarterUnit, semiAnnualUnit, yearUnit, noUnit, oneOffUnit)),
			count:    int(of("count", 1, 1, 2, 7, 11, 60, 360, 720, 1000)),
		}
		if r.unit >= weekUnit {
			r.count = int(of("long count", 1, 1, 2, 3, 7))
		}
		r.unlimited, r.overage = int(of("unlimited", 0, 0, 0, 1)), int(of("overage", 0, 1))
		r.rolloverMonths = int(of("months", 0, 1, 1, 1, 2, 3, 6, between("any months", 0, 36)))
		switch of("rollover rule", 0, 1, 2, 2, 2, 2, 2) {
		case 0:
			r.rolloverMax = unbounded
		case 1:
			r.rolloverMax = of("rollover max", 0, 1, maxUnits)
		default: // near what can be alive
			alive := int64(10)
			if r.hasPeriod() && r.rolloverMonths > 0 {
				alive = min(100_000, int64(r.rolloverMonths)*31*day/r.shortest()+1)
			}
			whole := between("periods that fit", max(0, alive-alive/8-3), alive+1)
			if of("any", 0, 0, 1) == 1 {
				whole = between("periods that fit", 0, alive)
			}
			if r.included > 0 && whole > maxUnits/r.included {
				whole = 0
			}
			r.rolloverMax = min(maxUnits, whole*r.included+between("part", 0, max(1, r.included)-1))
		}
		return r
	}
	var rules []rule
	for range between("rules", 1, 3) {
		rules = append(rules, drawRule())
	}
	aRule := func() rule { return rapid.SampledFrom(rules).Draw(t, "rule") }
	shortest := int64(math.MaxInt64)
	for _, r := range rules {
		shortest = min(shortest, r.shortest())
	}

	anchorAt := func() int64 {
		month := time.Date(2023, time.Month(between("month", 1, 24)), 1, 0, 0, 0, 0, time.UTC)
		day := month.AddDate(0, 0, int(of("day", 0, 14, 27, 28, 29, 30)))
		return day.UnixMilli() + of("time of day", 0, 1, between("ms", 0, 24*60*60*1000-1))
	}
	var balances []*walked
	catalog := map[string]rule{}
	var now int64
	firstAnchor := anchorAt()
	for i := range between("balances", 1, 3) {
		b := &walked{rule: aRule(), plan: fmt.Sprint("plan", i), anchor: firstAnchor, times: of("times", 1, 1, 2), shared: int(of("shared", 0, 1))}
		if of("own anchor", 0, 0, 1) == 1 {
			b.anchor = anchorAt()
		}
		if of("of a plan", 1, 1, 0) == 0 {
			b.plan = ""
		} else {
			catalog[b.plan] = b.rule
		}
		if b.included < maxUnits/4 {
			b.prepaid, b.added = of("prepaid", 0, 0, 2, maxUnits/2), of("added", 0, 0, 5)
		}
		b.included += b.added
		b.includedLeft, b.prepaidLeft = between("included left", 0, b.included), b.prepaid
		b.resets = boundaryAfter(b.anchor, b.rule, b.anchor)
		now = max(now, b.anchor)
		balances = append(balances, b)
	}
	budget := int64(mostResets / len(balances) / len(balances))
	var commands []calendarCommand
	settle := func() { commands = append(commands, settleAt(now, maps.Clone(catalog))) }
	settle()
	for range between("commands", 1, 25) {
		switch of("command", 0, 0, 0, 1, 1, 2, 3, 4) {
		case 0:
			before := now
			switch of("jump", 0, 1, 2, 3, 3, 4) {
			case 0:
				now += between("ms", 0, 100_000)
			case 1:
				now += between("periods", 1, 5) * min(shortest, 365*day)
			case 2:
				now += between("days", 1, 40) * day
			case 3: // when rollovers of the last days of a month expire
				at := time.UnixMilli(now).UTC()
				lastDay := time.Date(at.Year(), at.Month()+1+time.Month(between("months", 0, 13)), 0, 0, 0, 0, 0, time.UTC)
				now = max(now, lastDay.UnixMilli()+of("time of day", 0, day-1, between("ms", 0, day-1)))
			case 4:
				now += between("ms", 0, 3*365*day)
			}
			if most := budget * min(shortest, 365*day); now-before > most {
				now = before + most
			}
			budget -= (now - before) / shortest
			settle()
			if of("clock", 0, 0, 0, 1) == 1 { // of another worker, behind this one's
				commands = append(commands, settleAt(now-between("behind", 0, 100_000), maps.Clone(catalog)))
			}
		case 1:
			commands = append(commands, moveOf(drawAmount(t)))
		case 2:
			for _, b := range balances {
				if b.plan != "" {
					catalog[b.plan] = aRule()
				}
			}
		case 3:
			commands = append(commands, moveOf(-drawAmount(t)))
		case 4:
			commands = append(commands, calendarCommand{kind: "use", number: drawAmount(t)})
		}
	}
	return balances, commands
}

func drawAmount(t *rapid.T) int64 {
	return rapid.OneOf(rapid.Int64Range(1, 10), rapid.Int64Range(1, 500), rapid.Int64Range(1, 100_000), rapid.Just(int64(maxUnits))).Draw(t, "amount")
}

func TestResetsAndRolloversAreThoseOfWalking(t *testing.T) {
	client := servertest.Redis(t)
	rapid.Check(t, func(t *rapid.T) {
		balances, commands := drawPool(t)
		compare(t, client, balances, commands)
	})
}

// drawChanges draws the cases that have to look at the past: rules that change while rollovers are alive, with
// a maximum that some of the months reach, and checks at the end of months.
func drawChanges(t *rapid.T) ([]*walked, []calendarCommand) {
	of := func(name string, values ...int64) int64 { return rapid.SampledFrom(values).Draw(t, name) }
	between := func(name string, from, to int64) int64 { return rapid.Int64Range(from, to).Draw(t, name) }
	const day = int64(24 * 60 * 60 * 1000)

	unit := int(of("unit", minuteUnit, hourUnit, hourUnit, dayUnit, dayUnit, monthUnit))
	drawCount := func() int {
		switch unit {
		case minuteUnit:
			return int(of("count", 240, 700))
		case hourUnit:
			return int(of("count", 1, 3, 7, 24))
		case monthUnit:
			return 1
		}
		return int(of("count", 1, 1, 2))
	}
	count := drawCount()
	drawRule := func() rule {
		r := rule{included: of("included", 1, 1, 2, 5), unit: unit, count: count, max: unbounded, rolloverMonths: int(of("months", 0, 1, 1, 1, 2, 3, 12))}
		if of("other period", 0, 0, 0, 1) == 1 {
			r.unit, r.count = int(of("unit", hourUnit, dayUnit, weekUnit, monthUnit)), int(of("count", 1, 2, 7))
		}
		alive := max(1, int64(max(1, r.rolloverMonths))*30*day/r.shortest())
		r.rolloverMax = max(1, r.included*alive*between("percent", 40, 180)/100+between("more", -3, 3))
		return r
	}
	month := time.Date(2023, time.Month(between("month", 1, 24)), 1, 0, 0, 0, 0, time.UTC)
	anchor := month.AddDate(0, 0, int(of("day", 0, 14, 26, 27, 28, 29, 30))).UnixMilli() + of("time of day", 0, 1, between("ms", 0, day-1))
	// With a rollover that never expires and fills the maximum, what becomes of it says how much there was of
	// the others, at the most, at any time.
	const much = 1_000_000
	full := of("full", 0, 1) == 1
	drawMax := func(r rule) rule {
		if full {
			r.rolloverMax = much
		}
		return r
	}
	r := drawMax(drawRule())
	b := &walked{rule: r, plan: "plan", anchor: anchor, times: 1, includedLeft: r.included, resets: boundaryAfter(anchor, r, anchor)}
	if full {
		b.rollovers, b.left = []*walkedRollover{{rolledOver: rolledOver{much, much, never}}}, much
	}
	now := anchor
	var commands []calendarCommand
	for range between("changes", 1, 4) {
		catalog := map[string]rule{b.plan: r}
		for range between("checks", 1, 3) {
			jump := between("periods", 1, 40) * min(r.shortest(), 20*day)
			switch of("jump", 0, 1, 1, 1) {
			case 1: // to the last day of a month, or near it
				at := time.UnixMilli(now).UTC()
				lastDay := time.Date(at.Year(), at.Month()+1+time.Month(between("months", 0, 14)), 0, 0, 0, 0, 0, time.UTC)
				jump = lastDay.UnixMilli() + of("days", 0, 0, 0, -1, -2, 1)*day + between("ms", 0, day-1) - now
			}
			now += max(0, jump)
			commands = append(commands, settleAt(now, catalog))
			for range between("moves", 0, 2) {
				amount := between("amount", 1, 40)
				commands = append(commands, moveOf(amount), moveOf(-between("back", 1, 40)))
			}
		}
		r = drawMax(drawRule())
	}
	return []*walked{b}, commands
}

func TestResetsAfterAChangeOfTheCatalogueAreThoseOfWalking(t *testing.T) {
	client := servertest.Redis(t)
	rapid.Check(t, func(t *rapid.T) {
		balances, commands := drawChanges(t)
		compare(t, client, balances, commands)
	})
}

func utcMs(text string) int64 {
	t, err := time.Parse(time.DateTime, text)
	if err != nil {
		panic(err)
	}
	return t.UnixMilli()
}

// fresh is a balance of a plan, with nothing used.
func fresh(anchor int64, r rule) *walked {
	r.max = unbounded
	return &walked{rule: r, plan: "plan", anchor: anchor, times: 1, includedLeft: r.included, resets: boundaryAfter(anchor, r, anchor)}
}

func TestMissedResets(t *testing.T) {
	const start = "2024-01-15 10:20:30"
	days := func(n int) int64 { return utcMs(start) + int64(n)*fixedMs[dayUnit] }
	perMinute := rule{included: 1, unit: minuteUnit, count: 1, rolloverMax: 1440, rolloverMonths: 1}
	unfilled := perMinute
	unfilled.rolloverMax = maxUnits
	binding := perMinute // by a month of 31 days, and not by one of 29
	binding.rolloverMax = 30 * 1440
	forever := perMinute
	forever.rolloverMonths, forever.rolloverMax = 0, 5000
	daily := rule{included: 7, unit: dayUnit, count: 1, rolloverMax: 150, rolloverMonths: 1}
	monthly := rule{included: 100, unit: monthUnit, count: 1, rolloverMax: 1150, rolloverMonths: 12}
	for _, c := range []struct {
		name   string
		rule   rule
		anchor string
		now    int64
		left   int64 // of the rollovers, -1: whatever the walker says
		runs   int   // at most
	}{
		{"a bucket of one a minute, idle for two days, is full", perMinute, start, days(2), 1440, 1},
		{"more than 1,000 missed resets lose nothing", unfilled, start, days(2), 2880, 1},
		{"what never expires is one run", forever, start, days(90), 5000, 1},
		{"a month of minutes that all live", unfilled, start, utcMs("2024-02-15 10:20:29"), 31*1440 - 1, 3},
		{"on the last day of February those of three days expire", unfilled, "2024-01-05 00:00:00", utcMs("2024-02-29 13:00:00"), -1, 6},
		{"who made way on that day does not come back", binding, "2024-01-05 00:00:00", utcMs("2024-02-29 13:00:00"), -1, 6},
		{"daily", daily, "2023-12-31 00:00:00", utcMs("2024-02-29 13:00:00"), 150, 6},
		{"monthly, from the 31st", monthly, "2020-01-31 09:00:00", utcMs("2024-02-29 09:00:00"), 1150, 12},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := fresh(utcMs(c.anchor), c.rule)
			answers := compare(t, servertest.Redis(t), []*walked{b}, []calendarCommand{settleAt(c.now, nil)})
			got := answers[0].balances[0]
			if c.left >= 0 && got.left != c.left {
				t.Errorf("%d left, want %d", got.left, c.left)
			}
			if b.includedLeft != c.rule.included {
				t.Errorf("%d of the period left, want %d", b.includedLeft, c.rule.included)
			}
			if len(got.runs) > c.runs {
				t.Errorf("%d runs, want no more than %d: %v", len(got.runs), c.runs, got.runs)
			}
		})
	}
}

// TestStepsDoNotGrowWithMissedResets counts calls of the functions that all of the work goes through.
func TestStepsDoNotGrowWithMissedResets(t *testing.T) {
	const start, yearsLater = "2014-03-05 00:00:00", "2024-03-05 00:00:00"
	days := func(from, to string) int64 { return (utcMs(to) - utcMs(from)) / fixedMs[dayUnit] }
	perMinute := rule{included: 1, unit: minuteUnit, count: 1, rolloverMax: maxUnits, rolloverMonths: 12}
	bounded, forever := perMinute, perMinute
	bounded.rolloverMax = 100_000
	forever.rolloverMonths = 0
	kept := []*walkedRollover{{rolledOver: rolledOver{600_000, 600_000, never}}}
	beside := perMinute
	beside.rolloverMax = 1_000_000
	for _, c := range []struct {
		name  string
		rule  rule
		kept  []*walkedRollover
		left  int64
		steps int64 // at the most, and so many runs
		runs  int
	}{
		{"twelve months of minutes", perMinute, nil, days("2023-03-05 00:00:00", yearsLater) * 1440, 600, 30},
		{"no more than fit", bounded, nil, 100_000, 250, 10},
		{"for ever", forever, nil, days(start, yearsLater) * 1440, 100, 1},
		// A year back from any time has 366 days at the most.
		{"beside one that never expires, but makes way", beside, kept, days("2023-03-05 00:00:00", yearsLater)*1440 + 1_000_000 - 366*1440, 7_000, 30},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := fresh(utcMs(start), c.rule)
			b.rollovers = c.kept
			client, began := servertest.Redis(t), time.Now()
			answers := runCalendar(t, client, []*walked{b}, []calendarCommand{
				settleAt(utcMs(yearsLater), nil), moveOf(50_000), moveOf(-25_000), settleAt(utcMs(yearsLater)+30_000, nil),
			})
			t.Logf("steps %d, %d, %d; runs %d; all of it in %v", answers[0].steps, answers[1].steps, answers[2].steps, len(answers[0].balances[0].runs), time.Since(began))
			if got := answers[0].balances[0]; got.left != c.left || len(got.runs) > c.runs || answers[0].steps > c.steps {
				t.Errorf("%d left in %d runs after %d steps, want %d, no more than %d and %d", got.left, len(got.runs), answers[0].steps, c.left, c.runs, c.steps)
			}
			for n, moved := range []int64{50_000, 25_000} {
				if answers[n+1].moved != moved || answers[n+1].steps > 500 {
					t.Errorf("moved %d in %d steps, want %d in no more than 500", answers[n+1].moved, answers[n+1].steps, moved)
				}
			}
			if got := answers[3].balances[0].left; got != c.left-25_000 {
				t.Errorf("%d left in the end, want %d", got, c.left-25_000)
			}
		})
	}
}
