//go:build bench

package bench

import (
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"

	"tollgate/bench/report"
)

func machine() string {
	model := "unknown processor"
	if info, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		if _, rest, found := strings.Cut(string(info), "model name\t: "); found {
			model, _, _ = strings.Cut(rest, "\n")
		}
	}
	return fmt.Sprintf("%d cores, %s, %s", runtime.NumCPU(), model, runtime.Version())
}

// throughput measures ceilings and workers in turn, round by round, so that what else the
// machine does meets them all alike.
func throughput(r *rig, into *report.Report) {
	into.Ceilings, into.Workers = map[string]report.Spread{}, map[string]report.Runs{}
	worker := func(name string, w workload, flags ...string) {
		into.Workers[name] = into.Workers[name].Add(r.worker(w, flags...))
	}
	ceiling := func(name string, perSecond float64) { into.Ceilings[name] = into.Ceilings[name].Add(perSecond) }
	for round := range *rounds {
		r.Logf("round %d of %d", round+1, *rounds)
		for _, w := range workloads {
			worker(w.name, w)
		}
		worker("send_event, --exactly-once", sendEvent, "--exactly-once")
		event := into.Workers[sendEvent.name].Median
		ceiling(report.Bare, r.bare())
		ceiling(report.Copy, r.copyRecords(int(event.ResultBytes), int(event.EventBytes)))
		ceiling(report.Naive, r.naive())
	}
}

func (r *rig) usedBytes() float64 {
	r.Helper()
	info, err := r.redis.Client.Info(r.Context(), "memory").Result()
	if err != nil {
		r.Fatal(err)
	}
	used, _ := strconv.ParseFloat(field(info, "used_memory"), 64)
	return used
}
