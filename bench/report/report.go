// Package report is what a run of the benchmarks measured.
package report

import (
	"cmp"
	"fmt"
	"io"
	"maps"
	"slices"

	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/jedib0t/go-pretty/v6/text"
)

// Report is everything that was measured.
type Report struct {
	Machine  string             `json:"machine"`
	Ceilings map[string]Spread  `json:"ceilings"` // checks per second
	Workers  map[string]Runs    `json:"workers"`  // by workload
	Latency  []Latency          `json:"latency"`
	Growth   map[string][]Point `json:"growth"` // by dimension
}

// The ceilings, and the naive way.
const (
	Bare  = "bare go-redis pipeline, same script"
	Copy  = "Kafka copied to two topics, nothing decided"
	Naive = "naive: one at a time"
)

// Spread is what several rounds gave.
type Spread struct {
	Median float64   `json:"median"`
	Rounds []float64 `json:"rounds"`
}

// Add adds a round.
func (s Spread) Add(value float64) Spread {
	s.Rounds = append(s.Rounds, value)
	s.Median = Median(s.Rounds)
	return s
}

// Run is a measurement of workers; all but the first and the last are per check.
type Run struct {
	PerSecond      float64 `json:"per_second"`
	WorkerMicros   float64 `json:"worker_cpu_us"`
	RedisMicros    float64 `json:"redis_cpu_us"`
	BrokerMicros   float64 `json:"broker_cpu_us"`
	Allocations    float64 `json:"allocations"`
	AllocatedBytes float64 `json:"allocated_bytes"`
	ToRedisBytes   float64 `json:"bytes_to_redis"`
	FromRedisBytes float64 `json:"bytes_from_redis"`
	ResultBytes    float64 `json:"result_bytes"`
	EventBytes     float64 `json:"event_bytes"`
	ResidentMiB    float64 `json:"resident_mib"`
}

// Runs are the rounds of a workload. Median is that with the median throughput.
type Runs struct {
	Median Run   `json:"median"`
	Rounds []Run `json:"rounds"`
}

// Add adds a round.
func (r Runs) Add(run Run) Runs {
	r.Rounds = append(r.Rounds, run)
	sorted := slices.SortedFunc(slices.Values(r.Rounds), func(a, b Run) int { return cmp.Compare(a.PerSecond, b.PerSecond) })
	r.Median = sorted[len(sorted)/2]
	return r
}

// Latency is that of an open loop, from when each check was due to its result.
type Latency struct {
	Share     float64 `json:"share"` // of the most that the worker does; 0: a lone request now and then
	PerSecond float64 `json:"per_second"`
	P50       float64 `json:"p50_ms"`
	P99       float64 `json:"p99_ms"`
	P999      float64 `json:"p99_9_ms"`
	Max       float64 `json:"max_ms"`
}

// Point is what a check costs at a size.
type Point struct {
	Size int `json:"size"`
	Run
	// BytesPerCustomer is what Redis holds, where that was measured.
	BytesPerCustomer float64 `json:"bytes_per_customer,omitempty"`
}

// Median is the middle one of the values, of which there must be some.
func Median(values []float64) float64 {
	sorted := slices.Sorted(slices.Values(values))
	return sorted[len(sorted)/2]
}

func newTable(w io.Writer, header ...any) table.Writer {
	t := table.NewWriter()
	t.SetOutputMirror(w)
	t.AppendHeader(header)
	var columns []table.ColumnConfig
	for i := 2; i <= len(header); i++ {
		columns = append(columns, table.ColumnConfig{Number: i, Align: text.AlignRight})
	}
	t.SetColumnConfigs(columns)
	return t
}

// Print writes the tables, in Markdown.
func (report *Report) Print(w io.Writer) {
	fmt.Fprintf(w, "\n%s\n\n", report.Machine)
	bare := report.Ceilings[Bare].Median
	t := newTable(w, "checks per second", "median", "least", "most", "of bare")
	for _, name := range []string{Bare, Copy, Naive} {
		s := report.Ceilings[name]
		if len(s.Rounds) == 0 {
			continue // a run that failed early
		}
		t.AppendRow(table.Row{name, whole(s.Median), whole(slices.Min(s.Rounds)), whole(slices.Max(s.Rounds)), fmt.Sprintf("%.2f", s.Median/bare)})
	}
	names := slices.Sorted(maps.Keys(report.Workers))
	for _, name := range names {
		m := report.Workers[name]
		var all []float64
		for _, run := range m.Rounds {
			all = append(all, run.PerSecond)
		}
		t.AppendRow(table.Row{"worker: " + name, whole(m.Median.PerSecond), whole(slices.Min(all)), whole(slices.Max(all)), fmt.Sprintf("%.2f", m.Median.PerSecond/bare)})
	}
	t.RenderMarkdown()
	fmt.Fprintln(w)
	t = newTable(w, "cost of a check", "worker CPU µs", "Redis CPU µs", "broker CPU µs", "allocations", "allocated B", "to Redis B", "from Redis B", "result B", "event B", "worker MiB")
	for _, name := range names {
		m := report.Workers[name].Median
		t.AppendRow(table.Row{name, tenth(m.WorkerMicros), tenth(m.RedisMicros), tenth(m.BrokerMicros), tenth(m.Allocations), whole(m.AllocatedBytes),
			whole(m.ToRedisBytes), whole(m.FromRedisBytes), whole(m.ResultBytes), whole(m.EventBytes), whole(m.ResidentMiB)})
	}
	t.RenderMarkdown()
	fmt.Fprintln(w)
	t = newTable(w, "latency in ms", "checks/s", "p50", "p99", "p99.9", "max")
	for _, l := range report.Latency {
		name := fmt.Sprintf("%.0f %% of the most", l.Share*100)
		if l.Share == 0 {
			name = "idle but for this"
		}
		t.AppendRow(table.Row{name, whole(l.PerSecond), tenth(l.P50), tenth(l.P99), tenth(l.P999), tenth(l.Max)})
	}
	t.RenderMarkdown()
	for _, dimension := range slices.Sorted(maps.Keys(report.Growth)) {
		fmt.Fprintln(w)
		t = newTable(w, dimension, "checks/s", "worker CPU µs", "Redis CPU µs", "broker CPU µs", "bytes/customer")
		for _, p := range report.Growth[dimension] {
			bytes := ""
			if p.BytesPerCustomer > 0 {
				bytes = whole(p.BytesPerCustomer)
			}
			t.AppendRow(table.Row{p.Size, whole(p.PerSecond), tenth(p.WorkerMicros), tenth(p.RedisMicros), tenth(p.BrokerMicros), bytes})
		}
		t.RenderMarkdown()
	}
}

func whole(n float64) string { return fmt.Sprintf("%.0f", n) }
func tenth(n float64) string { return fmt.Sprintf("%.1f", n) }
