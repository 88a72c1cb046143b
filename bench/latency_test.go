//go:build bench

package bench

import (
	"encoding/json"
	"fmt"
	"strconv"

	"tollgate/bench/report"
	"tollgate/internal/proctest"
)

const (
	lonePerSecond  = 20
	latencySeconds = 10
)

// latency measures at shares of the throughput that was measured before.
func latency(r *rig, into *report.Report) {
	most := into.Workers[sendEvent.name].Median.PerSecond
	for _, share := range []float64{0, 0.1, 0.5, 0.8} {
		var all []report.Latency
		for range *rounds {
			all = append(all, r.openLoop(max(lonePerSecond, share*most)))
		}
		median := func(of func(report.Latency) float64) float64 {
			var values []float64
			for _, one := range all {
				values = append(values, of(one))
			}
			return report.Median(values)
		}
		into.Latency = append(into.Latency, report.Latency{
			Share: share, PerSecond: all[0].PerSecond,
			P50: median(func(l report.Latency) float64 { return l.P50 }), P99: median(func(l report.Latency) float64 { return l.P99 }),
			P999: median(func(l report.Latency) float64 { return l.P999 }), Max: median(func(l report.Latency) float64 { return l.Max }),
		})
	}
}

func (r *rig) openLoop(rate float64) report.Latency {
	r.Helper()
	b, end := r.newBench(partitions)
	defer end()
	b.provisionAs(customers, func(n int) string { return fmt.Sprintf("load-%d", n) })
	worker, addr := b.startWorker()
	worker.AwaitReady(r, addr)
	out := proctest.Run(r, nil, "producer", "load", "--kafka-brokers", b.kafkaAddr, "--no-prepare",
		"--topic-checks", b.topics.Checks, "--topic-check-results", b.topics.CheckResults,
		"--rate", strconv.Itoa(int(rate)), "--duration", fmt.Sprint(latencySeconds, "s"), "--customers", strconv.Itoa(customers), "-o", "json")
	var loaded struct {
		Missing int `json:"missing"`
		Latency struct {
			P50  float64 `json:"p50"`
			P99  float64 `json:"p99"`
			P999 float64 `json:"p99_9"`
			Max  float64 `json:"max"`
		} `json:"latency_ms"`
		Codes map[string]int `json:"codes"`
	}
	if err := json.Unmarshal([]byte(out.Stdout), &loaded); err != nil || loaded.Missing > 0 || len(loaded.Codes) != 1 || loaded.Codes["included"] == 0 {
		r.Fatalf("%v: %s\n%s", err, out.Stdout, out.Stderr)
	}
	if code := worker.Stop(r); code != 0 {
		r.Fatalf("exit code %d", code)
	}
	return report.Latency{PerSecond: rate, P50: loaded.Latency.P50, P99: loaded.Latency.P99, P999: loaded.Latency.P999, Max: loaded.Latency.Max}
}
