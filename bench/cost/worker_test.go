//go:build bench

package cost

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"os"
	"sync/atomic"
	"testing"
	"time"

	"github.com/segmentio/kafka-go"
	"golang.org/x/sync/errgroup"

	"tollgate/internal/catalog"
	"tollgate/internal/engine"
	"tollgate/internal/store"
	"tollgate/internal/stream"
)

const (
	partitions = 4
	batchSize  = 500 // records
)

// worker is an engine that is handed batches as stream.Consumer hands them out: the
// partitions side by side, each one batch after the other. Customer n is in partition
// n % partitions.
type worker struct {
	*testing.T
	redis     *server
	customers int
	ahead     atomic.Int64 // of the clock, so that nobody waits for outcomes to be old enough
	checks    [partitions]*partition
	commands  [partitions]*partition
}

// partition is a topic's partition.
type partition struct {
	topic   string
	id      int
	decider stream.PartitionDecider
	next    int64    // offset
	begins  [2]int64 // offsets at which the last two batches began
}

func newWorker(t *testing.T, catalogText []byte, customers int) *worker {
	t.Helper()
	w := &worker{T: t, redis: startRedis(t), customers: customers}
	st, err := store.New(w.redis.client, store.Options{Prefix: "tollgate:"})
	if err != nil {
		t.Fatal(err)
	}
	rules, err := catalog.Parse(catalogText)
	if err != nil {
		t.Fatal(err)
	}
	logger := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))
	e := engine.New(st, rules, engine.Options{Topics: topics, IdempotencyWindow: time.Hour, Clock: w.now}, logger, observer())
	for id := range partitions {
		w.checks[id] = &partition{topic: topics.Checks, id: id, decider: e.Partition(topics.Checks, id)}
		w.commands[id] = &partition{topic: topics.Commands, id: id, decider: e.Partition(topics.Commands, id)}
	}
	return w
}

func (w *worker) now() time.Time { return time.Now().Add(time.Duration(w.ahead.Load())) }

func customerName(n int) string { return fmt.Sprintf("customer-%d", n) }

// request is a record's customer and body.
type request struct {
	customer int
	body     string
}

// sideBySide does something in all partitions at once.
func (w *worker) sideBySide(do func(ctx context.Context, id int) error) {
	w.Helper()
	group, ctx := errgroup.WithContext(w.Context())
	for id := range partitions {
		group.Go(func() error { return do(ctx, id) })
	}
	if err := group.Wait(); err != nil {
		w.Fatal(err)
	}
}

// decide has a batch decided. Each answer must contain a text.
func (w *worker) decide(ctx context.Context, p *partition, requests []request, answer string) error {
	batch := stream.Batch{
		Cluster: "5L6g3nShT-eMCtK--X86sw", Topic: p.topic, Partition: p.id, Generation: 1, Committed: p.begins[0],
		Records: make([]kafka.Message, len(requests)),
	}
	p.begins = [2]int64{p.begins[1], p.next}
	for i, r := range requests {
		batch.Records[i] = kafka.Message{
			Topic: p.topic, Partition: p.id, Offset: p.next, Time: w.now(), Key: []byte(customerName(r.customer)), Value: []byte(r.body),
			Headers: []kafka.Header{{Key: "request-id", Value: fmt.Appendf(nil, "request-%d-%d", p.id, p.next)}},
		}
		p.next++
	}
	decision, err := p.decider.Decide(ctx, batch)
	if err != nil {
		return err
	}
	out := decision.Records
	answered := 0
	for i := range out {
		if out[i].Topic == topics.UsageEvents {
			continue
		}
		if !bytes.Contains(out[i].Value, []byte(answer)) {
			return fmt.Errorf("not %s: %s", answer, out[i].Value)
		}
		answered++
	}
	if answered != len(requests) {
		return fmt.Errorf("%d answers to %d requests", answered, len(requests))
	}
	return nil
}

// rest has a partition forget all outcomes, as it does when no more records come.
func (w *worker) rest(ctx context.Context, p *partition) error {
	w.ahead.Add(int64(2 * time.Second))
	for deadline := time.Now().Add(10 * time.Second); p.decider.Rest(ctx, p.next); {
		if time.Now().After(deadline) {
			return fmt.Errorf("%s/%d does not come to rest", p.topic, p.id)
		}
	}
	return ctx.Err()
}

// forEach decides the requests of every customer and has them forgotten.
func (w *worker) forEach(topic *[partitions]*partition, answer string, requests func(customer int) []request) {
	w.Helper()
	w.sideBySide(func(ctx context.Context, id int) error {
		var waiting []request
		for n := id; n < w.customers; n += partitions {
			waiting = append(waiting, requests(n)...)
			if len(waiting) < batchSize && n+partitions < w.customers {
				continue
			}
			if err := w.decide(ctx, topic[id], waiting, answer); err != nil {
				return err
			}
			if err := w.rest(ctx, topic[id]); err != nil {
				return err
			}
			waiting = waiting[:0]
		}
		return nil
	})
}

// provision sends commands for every customer.
func (w *worker) provision(commands func(customer string) []string) {
	w.Helper()
	w.forEach(&w.commands, `"ok":true`, func(n int) []request {
		var requests []request
		for _, body := range commands(customerName(n)) {
			requests = append(requests, request{n, body})
		}
		return requests
	})
}

// check sends checks, a share to each partition. choose names the customer of a
// partition's i-th check, as a number among those of the partition.
func (w *worker) check(checks int, choose func(id, i int) int, body func(i int, customer string) string) {
	w.Helper()
	w.sideBySide(func(ctx context.Context, id int) error {
		requests := make([]request, 0, batchSize)
		for i := range checks / partitions {
			n := choose(id, i)*partitions + id
			requests = append(requests, request{n, body(i, customerName(n))})
			if len(requests) == batchSize || i == checks/partitions-1 {
				if err := w.decide(ctx, w.checks[id], requests, `"allowed":true`); err != nil {
					return err
				}
				requests = requests[:0]
			}
		}
		return nil
	})
}
