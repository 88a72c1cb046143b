//go:build bench

// Package bench measures checks per second, what they cost and how long they take, side by
// side with what Redis and Kafka themselves allow: `make bench`. Everything runs on
// loopback: the embedded broker as a process of its own, a real redis-server, workers.
package bench

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"testing"

	"tollgate/bench/report"
	"tollgate/internal/proctest"
)

var (
	out    = flag.String("out", "", "write the measurements to this file (JSON)")
	rounds = flag.Int("rounds", 5, "rounds of every measurement; the median counts")
	checks = flag.Int("checks", 150_000, "checks of a measurement of throughput")
)

func TestMain(m *testing.M) {
	os.Exit(proctest.Main(m))
}

// TestBench measures everything. With -short it is the guard: the worker's share of the bare
// ceiling must not have fallen by more than a fifth from what is recorded.
func TestBench(t *testing.T) {
	r := newRig(t)
	if testing.Short() {
		guard(r)
		return
	}
	all := &report.Report{Machine: machine()}
	defer write(t, all) // what was measured until something failed, too
	throughput(r, all)
	latency(r, all)
	growth(r, all)
}

func write(t *testing.T, all *report.Report) {
	all.Print(os.Stdout)
	if *out == "" {
		return
	}
	text, err := json.MarshalIndent(all, "", " ")
	if err == nil {
		err = os.WriteFile(*out, text, 0o644)
	}
	if err != nil {
		t.Error(err)
	}
}

// recorded is what the guard holds the ratio against.
type recorded struct {
	// WorkerToBare is checks/s of the worker (send_event) to those of a bare go-redis
	// pipeline of the same script.
	WorkerToBare float64 `json:"worker_to_bare"`
}

const recordedFile = "recorded.json"

func guard(r *rig) {
	text, err := os.ReadFile(recordedFile)
	if err != nil {
		r.Fatal(err)
	}
	var want recorded
	if err := json.Unmarshal(text, &want); err != nil {
		r.Fatal(err)
	}
	var ratios []float64
	for range 3 {
		bare := r.bare()
		worker := r.worker(sendEvent).PerSecond
		ratios = append(ratios, worker/bare)
		fmt.Printf("bare %.0f/s, worker %.0f/s: %.3f\n", bare, worker, worker/bare)
	}
	got := report.Median(ratios)
	fmt.Printf("guard: the worker does %.3f of the bare ceiling, %.3f are recorded\n", got, want.WorkerToBare)
	if got < 0.8*want.WorkerToBare {
		r.Errorf("the worker does %.3f of the bare ceiling, %.3f are recorded: more than a fifth is lost", got, want.WorkerToBare)
	}
}
