package store

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/tinylib/msgp/msgp"
)

// Running the libraries of periods and rollovers, and comparing them with the walker.

// calendarDriver runs commands on a pool. ARGV: the values of the pool, then commands {kind, number, rows}:
//
//	settle <now>, move <amount> (negative: give back), use <amount> (of what every balance includes)
//
// It returns for each command the packed values: steps of calendar arithmetic taken, amount moved, what is
// left of the rollovers, their soonest expiry, lines and their number before them, and the pool.
const calendarDriver = `
local s, replies = values_of(ARGV[1]), {}
local pool = {}
for i = 1, #s - 1, 13 do pool[#pool + 1] = { s, i } end
for n = 2, #ARGV do
  local command, lines, moved = values_of(ARGV[n]), {}, 0
  steps = 0
  local function add_line(place, amount) lines[#lines + 1], lines[#lines + 2] = place, amount end
  if command[1] == 'settle' then
    for _, at in ipairs(pool) do settle_balance(s, at[2], 'f', command[2], command[3]) end
  elseif command[1] == 'use' then
    for _, at in ipairs(pool) do
      s[at[2] + B.included_left] = s[at[2] + B.included_left] - min(s[at[2] + B.included_left], command[2])
    end
  elseif command[2] < 0 then
    moved = give_back_rollovers(pool, -command[2], nil, add_line)
  else
    moved = take_rollovers(pool, command[2], add_line)
  end
  local reply = { steps, moved, #lines / 2 }
  for _, value in ipairs(lines) do reply[#reply + 1] = value end
  for _, at in ipairs(pool) do
    local text, d = s[at[2] + B.rollovers], values_of(s[at[2] + B.details])
    reply[#reply + 1], reply[#reply + 2] = rollovers_left(text), next_expiry(text)
    reply[#reply + 1] = next_reset(d[D.anchor], d[D.unit], d[D.count], command[2])
  end
  for _, value in ipairs(s) do reply[#reply + 1] = value end
  replies[#replies + 1] = text_of(reply)
end
return replies
`

// calendarScript is the libraries and the driver; the arithmetic of dates counts its steps.
var calendarScript = sync.OnceValue(func() *redis.Script {
	var text strings.Builder
	add := func(library string) {
		text.WriteString(comment.ReplaceAllString(mustRead("scripts/lib/"+library+".lua"), ""))
	}
	add("layout")
	add("msgpack")
	text.WriteString("local steps, min, max, floor = 0, math.min, math.max, math.floor\n")
	add("rollovers")
	add("calendar")
	text.WriteString(calendarDriver)
	counted := text.String()
	for _, header := range []string{
		"local function civil(days)\n", "local function days_from_civil(year, month, day)\n",
		"local function boundary(anchor, unit, count, k)\n", "local function boundary_index(anchor, unit, count, time)\n",
		"local function expired_by(runs, j, time)\n", "local function movable(runs, j, sign, key)\n",
	} {
		if strings.Count(counted, header) != 1 {
			panic("not once in the libraries: " + header)
		}
		counted = strings.Replace(counted, header, header+"steps = steps + 1\n", 1)
	}
	return redis.NewScript(writeOut(counted))
})

type failer interface {
	Context() context.Context
	Fatalf(format string, args ...any)
}

type calendarCommand struct {
	kind    string
	number  int64 // the time, or the amount
	catalog map[string]rule
}

func settleAt(now int64, catalog map[string]rule) calendarCommand {
	return calendarCommand{"settle", now, catalog}
}
func moveOf(amount int64) calendarCommand { return calendarCommand{"move", amount, nil} }

type calendarAnswer struct {
	steps, moved int64
	lines        []walkedLine
	balances     []answeredBalance
}

type answeredBalance struct {
	left, nextExpiry, nextReset int64
	fields                      []int64 // B, without the texts
	details                     []any
	runs                        [][]int64
}

// packValues packs a list.
func packValues(values ...any) []byte {
	out := msgp.AppendArrayHeader(nil, uint32(len(values)))
	for _, value := range values {
		var err error
		if out, err = msgp.AppendIntf(out, value); err != nil {
			panic(err)
		}
	}
	return out
}

func valuesOf(text []byte) []any {
	if len(text) == 0 {
		return nil
	}
	n, text, err := msgp.ReadArrayHeaderBytes(text)
	if err != nil {
		panic(err)
	}
	var values []any
	for range n {
		value, rest, err := msgp.ReadIntfBytes(text)
		if err != nil {
			panic(err)
		}
		if unsigned, ok := value.(uint64); ok {
			value = int64(unsigned)
		}
		values, text = append(values, value), rest
	}
	return values
}

func packCatalog(catalog map[string]rule) []byte {
	if catalog == nil {
		return nil
	}
	var rows [][]byte
	for plan, r := range catalog {
		row := msgp.AppendString(msgp.AppendArrayHeader(nil, 2), plan)
		row = append(row, packValues(feature, 1, r.included, r.unlimited, r.overage, r.max, r.unit, r.count, r.rolloverMax, r.rolloverMonths, "", 0, 0)...)
		rows = append(rows, row)
	}
	return packList(rows)
}

func (b *walked) flags() int64 {
	return int64(b.unlimited*unlimitedBit + b.shared*sharedBit + b.overage*overageBit)
}

func (b *walked) details() []any {
	return []any{b.plan, int64(1), int64(0), int64(7), b.anchor, int64(b.unit), int64(b.count), b.rolloverMax, int64(b.rolloverMonths), b.times, b.added}
}

// fields are B without the texts.
func (b *walked) fields() []int64 {
	return []int64{b.includedLeft, b.included, b.resets, never, b.flags(), b.prepaidLeft, b.over, b.fromRollovers, b.prepaid, b.max, b.held}
}

func runCalendar(t failer, client *redis.Client, balances []*walked, commands []calendarCommand) []calendarAnswer {
	pool := []any{int64(0)}
	for _, b := range balances {
		var runs []any
		for _, r := range b.rollovers {
			runs = append(runs, r.held, r.held, 1, r.held-r.left, r.expires, 0)
		}
		packed := ""
		if runs != nil {
			packed = string(packValues(runs...))
		}
		fields := b.fields()
		for place := range balanceSize {
			switch place {
			case detailsPlace:
				pool = append(pool, string(packValues(b.details()...)))
			case rolloversPlace:
				pool = append(pool, packed)
			default:
				pool, fields = append(pool, fields[0]), fields[1:]
			}
		}
	}
	args := []any{packValues(pool...)}
	for _, c := range commands {
		args = append(args, packValues(c.kind, c.number, string(packCatalog(c.catalog))))
	}
	// An in-process Redis under the race detector takes seconds for some.
	replies, err := calendarScript().Run(t.Context(), client.WithTimeout(time.Minute), nil, args...).StringSlice()
	if err != nil {
		t.Fatalf("the script fails: %v", err)
	}
	var answers []calendarAnswer
	for _, reply := range replies {
		values := valuesOf([]byte(reply))
		next := func() int64 {
			value := values[0].(int64)
			values = values[1:]
			return value
		}
		a := calendarAnswer{steps: next(), moved: next()}
		for range next() {
			a.lines = append(a.lines, walkedLine{next(), next()})
		}
		for range balances {
			a.balances = append(a.balances, answeredBalance{left: next(), nextExpiry: next(), nextReset: next()})
		}
		values = values[1:] // due
		for i := range balances {
			b := &a.balances[i]
			for place := range balanceSize {
				switch place {
				case detailsPlace:
					b.details = valuesOf([]byte(values[place].(string)))
				case rolloversPlace:
					b.runs = runsOf(t, values[place].(string))
				default:
					b.fields = append(b.fields, values[place].(int64))
				}
			}
			values = values[balanceSize:]
		}
		answers = append(answers, a)
	}
	return answers
}

func runsOf(t failer, text string) (runs [][]int64) {
	values := valuesOf([]byte(text))
	for ; len(values) > 0; values = values[runSize:] {
		var r []int64
		for _, value := range values[:runSize] {
			r = append(r, value.(int64))
		}
		held, each, n, taken, expires, step := r[0], r[1], r[2], r[3], r[4], r[5]
		if held < 1 || each < 1 || n < 1 || taken < 0 || taken > held+(n-1)*each || (n > 1 && (expires == never) != (step == 0)) {
			t.Fatalf("no run: %v", r)
		}
		runs = append(runs, r)
	}
	return runs
}

func rolloversOf(r []int64) (list []rolledOver) {
	held, each, n, taken, expires, step := r[0], r[1], r[2], r[3], r[4], r[5]
	for range n {
		some := min(taken, held)
		list = append(list, rolledOver{held, held - some, expires})
		taken, held, expires = taken-some, each, expires+step
	}
	return list
}

// compare runs commands on both sides and returns the answers.
func compare(t failer, client *redis.Client, balances []*walked, commands []calendarCommand) []calendarAnswer {
	answers := runCalendar(t, client, balances, commands)
	for n, c := range commands {
		a := answers[n]
		var lines []walkedLine
		var moved int64
		switch c.kind {
		case "settle":
			for _, b := range balances {
				b.settle(c.number, c.catalog)
			}
		case "use":
			for _, b := range balances {
				b.includedLeft -= min(b.includedLeft, c.number)
			}
		default:
			lines, moved = moveRollovers(balances, c.number)
		}
		if moved != a.moved || !slices.Equal(lines, a.lines) {
			t.Fatalf("command %d %v: %d moved by %v, want %d by %v", n, c, a.moved, a.lines, moved, lines)
		}
		for i, b := range balances {
			got := a.balances[i]
			where := fmt.Sprintf("command %d %s %d, balance %d", n, c.kind, c.number, i)
			if !slices.Equal(got.fields, b.fields()) || !slices.Equal(got.details, b.details()) {
				t.Fatalf("%s: %v %v, want %v %v", where, got.fields, got.details, b.fields(), b.details())
			}
			var walkedList []rolledOver
			for _, r := range b.rollovers {
				walkedList = append(walkedList, r.rolledOver)
			}
			var rollovers []rolledOver
			for _, r := range got.runs {
				rollovers = append(rollovers, rolloversOf(r)...)
			}
			want := walkedList
			if !slices.Equal(rollovers, want) {
				t.Fatalf("%s: %s, runs %v", where, difference(rollovers, want), got.runs)
			}
			var left, soonest int64
			for _, r := range want {
				left += r.left
				if r.expires != never && (soonest == never || r.expires < soonest) {
					soonest = r.expires
				}
			}
			if got.left != left || got.nextExpiry != soonest {
				t.Fatalf("%s: left %d, soonest expiry %d, want %d, %d", where, got.left, got.nextExpiry, left, soonest)
			}
			if c.kind == "settle" {
				if want := boundaryAfter(b.anchor, b.rule, c.number); got.nextReset != want {
					t.Fatalf("%s: next reset %d, want %d", where, got.nextReset, want)
				}
			}
		}
	}
	return answers
}

func difference(got, want []rolledOver) string {
	i := 0
	for i < min(len(got), len(want)) && got[i] == want[i] {
		i++
	}
	show := func(list []rolledOver) string { return fmt.Sprint(list[i:min(len(list), i+3)]) }
	return fmt.Sprintf("%d rollovers, want %d; from %d on %s, want %s", len(got), len(want), i, show(got), show(want))
}
