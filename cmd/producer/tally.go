package main

import (
	"fmt"
	"os"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
	"github.com/schollz/progressbar/v3"
	"github.com/segmentio/kafka-go"
	"github.com/tidwall/gjson"

	"tollgate/internal/client"
	"tollgate/internal/terminal"
)

// tally counts results and how long they took.
type tally struct {
	*awaited[time.Time] // when each request was due
	codes               map[string]int
	latency             *hdrhistogram.Histogram // µs
	answered            int
}

const maxLatency = time.Hour

func newTally() *tally {
	return &tally{
		awaited: newAwaited[time.Time](), codes: map[string]int{}, latency: hdrhistogram.New(1, maxLatency.Microseconds(), 3),
	}
}

// settle notes a result; results of others, and repeats, do not count.
func (t *tally) settle(record kafka.Message) {
	now := time.Now()
	t.awaited.settle(client.RequestID(record.Headers), func(due time.Time) {
		t.codes[code(record.Value)]++
		t.answered++
		_ = t.latency.RecordValue(max(1, now.Sub(due).Microseconds()))
	})
}

// code is that of a check's result, and of a command's that failed; else ok. It is as fast as
// it is because whoever measures a worker on the same machine takes its time away.
func code(result []byte) string {
	if code := gjson.GetBytes(result, "code"); code.Exists() {
		return code.Str
	}
	if code := gjson.GetBytes(result, "error.code"); code.Exists() {
		return code.Str
	}
	return "ok"
}

// count is how many results have come.
func (t *tally) count() int {
	t.mutex.Lock()
	defer t.mutex.Unlock()
	return t.answered
}

// latencies are in milliseconds.
type latencies struct {
	P50  float64 `json:"p50"`
	P90  float64 `json:"p90"`
	P99  float64 `json:"p99"`
	P999 float64 `json:"p99_9"`
	Max  float64 `json:"max"`
}

func (t *tally) latencies() latencies {
	t.mutex.Lock()
	defer t.mutex.Unlock()
	at := func(quantile float64) float64 { return float64(t.latency.ValueAtQuantile(quantile)) / 1000 }
	return latencies{P50: at(50), P90: at(90), P99: at(99), P999: at(99.9), Max: at(100)}
}

func (l latencies) String() string {
	return fmt.Sprintf("p50 %.1f ms  p90 %.1f ms  p99 %.1f ms  p99.9 %.1f ms  max %.1f ms", l.P50, l.P90, l.P99, l.P999, l.Max)
}

// newProgress is a bar on a terminal's standard error, nothing elsewhere. total is -1
// where it is not known.
func newProgress(total int64, what string, options ...progressbar.Option) *progressbar.ProgressBar {
	return progressbar.NewOptions64(total, append([]progressbar.Option{
		progressbar.OptionSetWriter(os.Stderr), progressbar.OptionSetVisibility(terminal.Is(os.Stderr)),
		progressbar.OptionSetDescription(what), progressbar.OptionThrottle(100 * time.Millisecond),
		progressbar.OptionSetWidth(20), progressbar.OptionClearOnFinish(), progressbar.OptionShowCount(),
	}, options...)...)
}
