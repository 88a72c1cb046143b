package console

import (
	"fmt"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
)

// Overview is what the worker's metrics say now. Rates are the page's to make.
type Overview struct {
	Checks      map[string]float64 `json:"checks"` // by code
	Latency     []Bucket           `json:"latency"`
	Lag         []Lag              `json:"lag"`
	InFlight    float64            `json:"in_flight"`
	Joined      bool               `json:"joined"` // the worker is in its consumer group; else it knows no lag
	Stuck       float64            `json:"stuck"`  // partitions that do not go on
	DeadLetters float64            `json:"dead_letters"`
	Retries     float64            `json:"retries"`
	Catalog     string             `json:"catalog"`
	Version     string             `json:"version"`
	Writable    bool               `json:"writable"`
	Features    []string           `json:"features"`
	Latest      []Decision         `json:"latest"`
}

// Bucket is how many checks took so long or less.
type Bucket struct {
	Seconds float64 `json:"le"`
	Count   uint64  `json:"count"`
}

// Lag is how many records of a partition wait.
type Lag struct {
	Topic     string  `json:"topic"`
	Partition string  `json:"partition"`
	Records   float64 `json:"records"`
}

func readMetrics(gatherer prometheus.Gatherer) (*Overview, error) {
	families, err := gatherer.Gather()
	if err != nil {
		return nil, fmt.Errorf("gather metrics: %w", err)
	}
	o := &Overview{Checks: map[string]float64{}, Latency: []Bucket{}, Lag: []Lag{}}
	for _, family := range families {
		for _, metric := range family.Metric {
			switch family.GetName() {
			case "tollgate_checks_total":
				o.Checks[label(metric, "code")] += metric.Counter.GetValue()
			case "tollgate_check_latency_seconds":
				for _, bucket := range metric.Histogram.Bucket {
					o.Latency = append(o.Latency, Bucket{bucket.GetUpperBound(), bucket.GetCumulativeCount()})
				}
			case "tollgate_kafka_lag":
				o.Lag = append(o.Lag, Lag{label(metric, "topic"), label(metric, "partition"), metric.Gauge.GetValue()})
			case "tollgate_in_flight":
				o.InFlight = metric.Gauge.GetValue()
			case "tollgate_group_joined":
				o.Joined = metric.Gauge.GetValue() == 1
			case "tollgate_partitions_blocked", "tollgate_partitions_stalled":
				o.Stuck += metric.Gauge.GetValue()
			case "tollgate_dead_letters_total":
				o.DeadLetters += metric.Counter.GetValue()
			case "tollgate_retries_total":
				o.Retries += metric.Counter.GetValue()
			case "tollgate_catalog_info":
				o.Catalog = label(metric, "version")
			case "tollgate_build_info":
				o.Version = label(metric, "version")
			}
		}
	}
	return o, nil
}

func label(metric *dto.Metric, name string) string {
	for _, pair := range metric.Label {
		if pair.GetName() == name {
			return pair.GetValue()
		}
	}
	return ""
}
