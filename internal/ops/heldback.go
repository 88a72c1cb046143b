package ops

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"sync"

	"github.com/prometheus/client_golang/prometheus"

	"tollgate/internal/kafka"
)

// heldBack is which partitions have records that wait for their Redis shard while others are decided.
type heldBack struct {
	records *prometheus.GaugeVec
	mutex   sync.Mutex
	waiting map[kafka.Target]Waiting
}

func newHeldBack() *heldBack {
	return &heldBack{waiting: map[kafka.Target]Waiting{}, records: prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Namespace: namespace, Name: "held_back", Help: "Records that wait for their Redis shard while those of other customers are decided.",
	}, []string{"topic", "partition"})}
}

func (h *heldBack) set(at kafka.Target, records int, reason error) {
	h.records.WithLabelValues(at.Topic, strconv.Itoa(at.Partition)).Set(float64(records))
	h.mutex.Lock()
	defer h.mutex.Unlock()
	if records == 0 {
		delete(h.waiting, at)
		return
	}
	h.waiting[at] = Waiting{Target: at, Records: int64(records), Reason: reason.Error()}
}

func (h *heldBack) drop(at kafka.Target) {
	h.records.DeleteLabelValues(at.Topic, strconv.Itoa(at.Partition))
	h.mutex.Lock()
	defer h.mutex.Unlock()
	delete(h.waiting, at)
}

func (h *heldBack) list() []Waiting {
	h.mutex.Lock()
	defer h.mutex.Unlock()
	return slices.Collect(maps.Values(h.waiting))
}

// HeldBack notes how many records of a partition wait for their Redis shard, and why.
func (m *Metrics) HeldBack(topic string, partition, records int, reason error) {
	m.heldBack.set(kafka.Target{Topic: topic, Partition: partition}, records, reason)
}

// IsHeldBack says whether records of a partition wait for their Redis shard while others are decided.
func (m *Metrics) IsHeldBack(at kafka.Target) bool {
	m.heldBack.mutex.Lock()
	defer m.heldBack.mutex.Unlock()
	_, waits := m.heldBack.waiting[at]
	return waits
}

// Waiting is a probe: it fails while records wait for their Redis shard.
func (m *Metrics) Waiting(context.Context) error {
	return Report(m.heldBack.list(), func(g Group) string {
		return fmt.Sprintf("%s: %d records wait: %s", g.Partitions, g.Records, g.Reason)
	})
}

// WatchAway has the number of Redis shards that do not answer told by a function.
func (m *Metrics) WatchAway(count func() int) {
	m.Registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Namespace: namespace, Name: "redis_shards_away", Help: "Shards of the Redis Cluster that did not answer this worker when it asked them last.",
	}, func() float64 { return float64(count()) }))
}
