// Command plot draws what a run of the benchmarks measured (make bench): FILE.json FOLDER.
package main

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/plotutil"
	"gonum.org/v1/plot/vg"

	"tollgate/bench/report"
)

func main() {
	if len(os.Args) != 3 {
		fmt.Fprintln(os.Stderr, "usage: plot FILE.json FOLDER")
		os.Exit(2)
	}
	if err := draw(os.Args[1], os.Args[2]); err != nil {
		fmt.Fprintln(os.Stderr, "plot:", err)
		os.Exit(1)
	}
}

func draw(file, folder string) error {
	text, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	var all report.Report
	if err := json.Unmarshal(text, &all); err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	if err := os.MkdirAll(folder, 0o755); err != nil {
		return err
	}
	if err := throughput(&all, filepath.Join(folder, "throughput.svg")); err != nil {
		return err
	}
	if err := latency(&all, filepath.Join(folder, "latency.svg")); err != nil {
		return err
	}
	for dimension, points := range all.Growth {
		name := strings.ReplaceAll(dimension, " ", "-") + ".svg"
		if err := growth(dimension, points, filepath.Join(folder, name)); err != nil {
			return err
		}
	}
	return nil
}

const (
	width  = 18 * vg.Centimeter
	height = 9 * vg.Centimeter
	// legendRoom keeps the lines off the legend above them.
	legendRoom = 1.3
)

// wholeTicks labels an axis with whole numbers.
type wholeTicks struct{}

func (wholeTicks) Ticks(least, most float64) []plot.Tick {
	ticks := plot.DefaultTicks{}.Ticks(least, most)
	for i := range ticks {
		if ticks[i].Label != "" {
			ticks[i].Label = strconv.FormatFloat(ticks[i].Value, 'f', 0, 64)
		}
	}
	return ticks
}

// throughput draws ceilings and workloads as bars, the fastest on top.
func throughput(all *report.Report, file string) error {
	perSecond := map[string]float64{}
	for name, s := range all.Ceilings {
		perSecond[name] = s.Median
	}
	for name, runs := range all.Workers {
		perSecond["worker: "+name] = runs.Median.PerSecond
	}
	names := slices.SortedFunc(maps.Keys(perSecond), func(a, b string) int { return int(perSecond[a] - perSecond[b]) })
	var values plotter.Values
	for _, name := range names {
		values = append(values, perSecond[name])
	}
	p := plot.New()
	p.Title.Text, p.X.Label.Text = "Checks per second (medians)", "per second"
	bars, err := plotter.NewBarChart(values, vg.Points(12))
	if err != nil {
		return err
	}
	bars.Horizontal, bars.Color = true, plotutil.Color(2)
	p.Add(plotter.NewGrid(), bars)
	p.NominalY(names...)
	p.Y.Padding = vg.Points(50) // a viewer's font may be wider than the one that was measured
	p.X.Tick.Marker = wholeTicks{}
	return p.Save(width, height, file)
}

// latency draws percentiles against the load.
func latency(all *report.Report, file string) error {
	p := plot.New()
	p.Title.Text, p.X.Label.Text, p.Y.Label.Text = "Latency, open loop", "checks per second", "ms"
	p.Y.Min, p.Legend.Top, p.Legend.Left = 0, true, true
	var lines []any
	for _, percentile := range []struct {
		name string
		of   func(report.Latency) float64
	}{
		{"p50", func(l report.Latency) float64 { return l.P50 }}, {"p99", func(l report.Latency) float64 { return l.P99 }},
		{"p99.9", func(l report.Latency) float64 { return l.P999 }},
	} {
		var points plotter.XYs
		for _, l := range all.Latency {
			points = append(points, plotter.XY{X: l.PerSecond, Y: percentile.of(l)})
		}
		lines = append(lines, percentile.name, points)
	}
	if err := plotutil.AddLinePoints(p, lines...); err != nil {
		return err
	}
	p.Y.Max *= legendRoom
	return p.Save(width, height, file)
}

// growth draws what a check costs against a size.
func growth(dimension string, all []report.Point, file string) error {
	p := plot.New()
	p.Title.Text, p.X.Label.Text, p.Y.Label.Text = "Cost of a check", dimension, "CPU µs"
	p.X.Scale = plot.LogScale{}
	var ticks plot.ConstantTicks // just what was measured
	for _, point := range all {
		ticks = append(ticks, plot.Tick{Value: float64(point.Size), Label: strconv.Itoa(point.Size)})
	}
	p.X.Tick.Marker, p.Y.Tick.Marker = ticks, wholeTicks{}
	p.Y.Min, p.Legend.Top, p.Legend.Left = 0, true, true
	var lines []any
	for _, process := range []struct {
		name string
		of   func(report.Point) float64
	}{
		{"worker", func(p report.Point) float64 { return p.WorkerMicros }}, {"Redis", func(p report.Point) float64 { return p.RedisMicros }},
		{"broker", func(p report.Point) float64 { return p.BrokerMicros }},
	} {
		var points plotter.XYs
		for _, point := range all {
			points = append(points, plotter.XY{X: float64(point.Size), Y: process.of(point)})
		}
		lines = append(lines, process.name, points)
	}
	if err := plotutil.AddLinePoints(p, lines...); err != nil {
		return err
	}
	p.X.Max *= 1.2 // room for the last label
	p.Y.Max *= legendRoom
	return p.Save(width, height, file)
}
