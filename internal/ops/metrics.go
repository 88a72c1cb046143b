// Package ops is what running the worker takes: metrics, health and logging.
package ops

import (
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"tollgate/internal/engine"
	"tollgate/internal/kafka"
	"tollgate/internal/stream"
	"tollgate/internal/wire"
)

// Metrics are the worker's Prometheus metrics. No customer, entity or request id
// is ever a label. It observes both engine and stream.
type Metrics struct {
	Registry *prometheus.Registry

	checks       *prometheus.CounterVec
	checkLatency prometheus.Histogram
	batchSize    prometheus.Histogram
	script       prometheus.Histogram
	publish      *prometheus.HistogramVec
	lag          *prometheus.GaugeVec
	usageEvents  prometheus.Counter
	commands     *prometheus.CounterVec
	replays      prometheus.Counter
	deadLetters  *prometheus.CounterVec
	retries      *prometheus.CounterVec
	inFlight     prometheus.Gauge
	catalog      *prometheus.GaugeVec
	evicted      prometheus.Gauge
	oldest       *prometheus.GaugeVec
	skipped      *prometheus.CounterVec
	joined       prometheus.Gauge
	assigned     prometheus.Gauge
	rebalances   prometheus.Counter
	heldBack     *heldBack
	swept        prometheus.Counter
	sweepsFailed prometheus.Counter
	checksTopic  string
}

const namespace = "tollgate"

// Buckets of durations, in seconds: 100 µs to 13 s.
var secondsBuckets = prometheus.ExponentialBuckets(0.0001, 2, 18)

func histogram(name, help string, buckets []float64) prometheus.HistogramOpts {
	return prometheus.HistogramOpts{
		Namespace: namespace, Name: name, Help: help, Buckets: buckets,
		NativeHistogramBucketFactor: 1.1, NativeHistogramMaxBucketNumber: 160, NativeHistogramMinResetDuration: time.Hour,
	}
}

// NewMetrics makes the metrics, on a registry of their own.
func NewMetrics() *Metrics {
	counter := func(name, help string) prometheus.CounterOpts {
		return prometheus.CounterOpts{Namespace: namespace, Name: name, Help: help}
	}
	gauge := func(name, help string) prometheus.GaugeOpts {
		return prometheus.GaugeOpts{Namespace: namespace, Name: name, Help: help}
	}
	m := &Metrics{
		heldBack:     newHeldBack(),
		Registry:     prometheus.NewRegistry(),
		checks:       prometheus.NewCounterVec(counter("checks_total", "Checks that were decided."), []string{"allowed", "code"}),
		checkLatency: prometheus.NewHistogram(histogram("check_latency_seconds", "From a request's record timestamp until its result is acknowledged.", secondsBuckets)),
		batchSize:    prometheus.NewHistogram(histogram("batch_size", "Records that were decided together.", prometheus.ExponentialBuckets(1, 2, 14))),
		script:       prometheus.NewHistogram(histogram("redis_script_seconds", "Round trip of a batch to Redis, when it succeeded.", secondsBuckets)),
		publish:      prometheus.NewHistogramVec(histogram("kafka_publish_seconds", "From when records are sent to a topic until Kafka has acknowledged them.", secondsBuckets), []string{"topic"}),
		lag:          prometheus.NewGaugeVec(gauge("kafka_lag", "Records from the committed offset to the end of the log, asked of Kafka every 5 s for the partitions of this worker."), []string{"topic", "partition"}),
		usageEvents:  prometheus.NewCounter(counter("usage_events_total", "Usage events that decisions led to.")),
		commands:     prometheus.NewCounterVec(counter("commands_total", "Commands that were carried out (ok) or refused."), []string{"type", "ok"}),
		replays:      prometheus.NewCounter(counter("replays_total", "Records that had been decided before and were answered from the ledger.")),
		deadLetters:  prometheus.NewCounterVec(counter("dead_letters_total", "Records that are in the dead-letter topic: counted when Kafka has acknowledged them."), []string{"reason"}),
		retries:      prometheus.NewCounterVec(counter("retries_total", "Tries at Kafka or Redis that failed and are followed by another."), []string{"dependency"}),
		inFlight:     prometheus.NewGauge(gauge("in_flight", "Records that this worker has in hand: being decided or published.")),
		oldest:       prometheus.NewGaugeVec(gauge("kafka_oldest_undecided_seconds", "Age, by its timestamp, of the first record that is not committed, asked for every 5 s; 0 if there is none."), []string{"topic", "partition"}),
		skipped:      prometheus.NewCounterVec(counter("kafka_skipped_records_total", "Records that were deleted before they were read: nobody will decide them."), []string{"topic", "partition"}),
		joined:       prometheus.NewGauge(gauge("group_joined", "1 while the worker is a member of its consumer group.")),
		assigned:     prometheus.NewGauge(gauge("group_assigned_partitions", "Partitions, of all topics, that the group has assigned to this worker.")),
		rebalances:   prometheus.NewCounter(counter("group_generations_total", "Generations of the group that this worker has joined: one for every rebalance.")),
		evicted:      prometheus.NewGauge(gauge("redis_evicted_keys", "Keys that Redis has evicted since its start, summed over all masters.")),
		swept:        prometheus.NewCounter(counter("locks_swept_total", "Locks that this worker has found due, and sent lock.expire for.")),
		sweepsFailed: prometheus.NewCounter(counter("lock_sweep_failures_total", "Tries to find locks that are due, or to send lock.expire, that failed: locks expire with the next request of their customers only.")),
		catalog:      prometheus.NewGaugeVec(gauge("catalog_info", "1 for the catalogue in force."), []string{"version"}),
	}
	m.Registry.MustRegister(
		m.checks, m.checkLatency, m.batchSize, m.script, m.publish, m.lag, m.usageEvents, m.commands, m.replays,
		m.oldest, m.skipped, m.joined, m.assigned, m.rebalances, m.deadLetters, m.retries, m.inFlight, m.catalog, m.evicted, m.heldBack.records,
		m.swept, m.sweepsFailed,
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}), newBuildInfo(),
	)
	// A counter that begins at its first event does not rise by it.
	for _, reason := range engine.DeadReasons {
		m.deadLetters.WithLabelValues(string(reason))
	}
	for _, dependency := range []string{"kafka", "redis"} {
		m.retries.WithLabelValues(dependency)
	}
	return m
}

// Watch has numbers told by functions when they are asked for: how many partitions do not go on before an operator has
// done something, how many others have records and do not go on, and how many topics are missing.
func (m *Metrics) Watch(blocked, stalled, missing func() int) {
	for name, watched := range map[string]struct {
		help  string
		count func() int
	}{
		"partitions_blocked": {"Partitions of this worker that do not go on before an operator has done something; /readyz says what.", blocked},
		"partitions_stalled": {"Partitions of this worker that have had records for 30 s and finished none, those blocked or held back excepted; /readyz says why.", stalled},
		"topics_missing":     {"Topics of requests that this worker cannot consume: they do not exist, or it may not read them.", missing},
	} {
		m.Registry.MustRegister(prometheus.NewGaugeFunc(
			prometheus.GaugeOpts{Namespace: namespace, Name: name, Help: watched.help},
			func() float64 { return float64(watched.count()) }))
	}
}

// SetEvicted notes how many keys Redis has evicted.
func (m *Metrics) SetEvicted(keys int64) { m.evicted.Set(float64(keys)) }

// SetChecksTopic names the topic whose records count for check_latency_seconds.
func (m *Metrics) SetChecksTopic(topic string) { m.checksTopic = topic }

// SetCatalog names the catalogue in force.
func (m *Metrics) SetCatalog(version string) {
	m.catalog.Reset()
	m.catalog.WithLabelValues(version).Set(1)
}

// Checked counts a decision.
func (m *Metrics) Checked(result *wire.Result) {
	m.checks.WithLabelValues(strconv.FormatBool(result.Allowed()), string(result.Code)).Inc()
}

// Commanded counts a command.
func (m *Metrics) Commanded(kind string, ok bool) {
	m.commands.WithLabelValues(kind, strconv.FormatBool(ok)).Inc()
}

// UsageEvent counts a usage event.
func (m *Metrics) UsageEvent() { m.usageEvents.Inc() }

// Replayed counts a record answered from the ledger.
func (m *Metrics) Replayed() { m.replays.Inc() }

// Batched notes a batch about to be decided.
func (m *Metrics) Batched(records int) { m.batchSize.Observe(float64(records)) }

// Swept counts locks that lock.expire was sent for.
func (m *Metrics) Swept(locks int) { m.swept.Add(float64(locks)) }

// SweepFailed counts a try to have locks expire that failed.
func (m *Metrics) SweepFailed() { m.sweepsFailed.Inc() }

// InHand notes that so many more records are being decided or published, or fewer.
func (m *Metrics) InHand(more int) { m.inFlight.Add(float64(more)) }

// Scripted notes how long Redis took for a batch.
func (m *Metrics) Scripted(took time.Duration) { m.script.Observe(took.Seconds()) }

// DependencyRetried counts another try at kafka or redis.
func (m *Metrics) DependencyRetried(dependency string) { m.retries.WithLabelValues(dependency).Inc() }

// RedisRetried counts another try at Redis.
func (m *Metrics) RedisRetried() { m.DependencyRetried("redis") }

// Retried counts another try at Kafka.
func (m *Metrics) Retried() { m.DependencyRetried("kafka") }

// Assigned notes a generation of the group that the worker is a member of, or that it is none (-1).
func (m *Metrics) Assigned(partitions int) {
	m.joined.Set(1)
	if partitions < 0 {
		m.joined.Set(0)
		partitions = 0
	} else {
		m.rebalances.Inc()
	}
	m.assigned.Set(float64(partitions))
}

// Lagging notes how far a partition is behind.
func (m *Metrics) Lagging(topic string, partition int, records int64, oldest time.Duration) {
	id := strconv.Itoa(partition)
	m.lag.WithLabelValues(topic, id).Set(float64(records))
	m.oldest.WithLabelValues(topic, id).Set(oldest.Seconds())
	// What is 0 so far is shown, too.
	m.skipped.WithLabelValues(topic, id)
	m.heldBack.records.WithLabelValues(topic, id)
}

// Skipped counts records that nobody will ever decide.
func (m *Metrics) Skipped(topic string, partition int, records int64) {
	m.skipped.WithLabelValues(topic, strconv.Itoa(partition)).Add(float64(records))
}

// Dropped forgets a partition that is no longer ours. What was counted of it stays.
func (m *Metrics) Dropped(topic string, partition int) {
	m.lag.DeleteLabelValues(topic, strconv.Itoa(partition))
	m.oldest.DeleteLabelValues(topic, strconv.Itoa(partition))
	m.heldBack.drop(kafka.Target{Topic: topic, Partition: partition})
}

// Published notes records of one topic that are acknowledged.
func (m *Metrics) Published(records []kafka.Message, took time.Duration) {
	m.publish.WithLabelValues(records[0].Topic).Observe(took.Seconds())
	if records[0].WriterData == nil { // dead letters have a topic of their own
		return
	}
	for i := range records {
		if reason, ok := records[i].WriterData.(engine.DeadReason); ok {
			m.deadLetters.WithLabelValues(string(reason)).Inc()
		}
	}
}

// Settled notes that all of a batch is acknowledged.
func (m *Metrics) Settled(batch stream.Batch) {
	if batch.Topic != m.checksTopic {
		return
	}
	now := time.Now()
	for i := range batch.Records {
		m.checkLatency.Observe(now.Sub(batch.Records[i].Time).Seconds())
	}
}
