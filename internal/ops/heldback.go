package ops

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"sync"

	"github.com/prometheus/client_golang/prometheus"
)

// heldBack is which partitions have records that wait for their Redis shard while others are decided.
type heldBack struct {
	records *prometheus.GaugeVec
	mutex   sync.Mutex
	waiting []waiting
}

type waiting struct {
	topic     string
	partition int
	records   int
	reason    error
}

func newHeldBack() *heldBack {
	return &heldBack{records: prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Namespace: namespace, Name: "held_back", Help: "Records that wait for their Redis shard while those of other customers are decided.",
	}, []string{"topic", "partition"})}
}

func (h *heldBack) set(topic string, partition, records int, reason error) {
	h.records.WithLabelValues(topic, strconv.Itoa(partition)).Set(float64(records))
	h.drop(topic, partition)
	if records > 0 {
		h.mutex.Lock()
		defer h.mutex.Unlock()
		h.waiting = append(h.waiting, waiting{topic, partition, records, reason})
	}
}

func (h *heldBack) drop(topic string, partition int) {
	h.mutex.Lock()
	defer h.mutex.Unlock()
	h.waiting = slices.DeleteFunc(h.waiting, func(w waiting) bool { return w.topic == topic && w.partition == partition })
}

// HeldBack notes how many records of a partition wait for their Redis shard, and why.
func (m *Metrics) HeldBack(topic string, partition, records int, reason error) {
	m.heldBack.set(topic, partition, records, reason)
}

// Waiting is a probe: it fails while records wait for their Redis shard.
func (m *Metrics) Waiting(context.Context) error {
	m.heldBack.mutex.Lock()
	all := slices.Clone(m.heldBack.waiting)
	m.heldBack.mutex.Unlock()
	slices.SortFunc(all, func(a, b waiting) int {
		return cmp.Or(cmp.Compare(a.topic, b.topic), cmp.Compare(a.partition, b.partition))
	})
	var lines []error
	for _, w := range all {
		lines = append(lines, fmt.Errorf("%s %d: %d records wait: %w", w.topic, w.partition, w.records, w.reason))
	}
	return errors.Join(lines...)
}

// WatchAway has the number of Redis shards that do not answer told by a function.
func (m *Metrics) WatchAway(count func() int) {
	m.Registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Namespace: namespace, Name: "redis_shards_away", Help: "Shards of the Redis Cluster that did not answer this worker when it asked them last.",
	}, func() float64 { return float64(count()) }))
}
