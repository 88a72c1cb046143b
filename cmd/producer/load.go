package main

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"os"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	"github.com/segmentio/kafka-go"
	"golang.org/x/sync/errgroup"

	"tollgate/internal/client"
	"tollgate/internal/settings"
	"tollgate/internal/wire"
)

type loadCommand struct {
	Rate            float64       `default:"1000" placeholder:"N" group:"Load" help:"Checks per second."`
	Duration        time.Duration `default:"10s" group:"Load" help:"For how long."`
	Customers       int           `default:"1000" placeholder:"N" group:"Load" help:"Over so many customers, load-0, load-1, …"`
	Skew            float64       `default:"0" placeholder:"Z" group:"Load" help:"Zipf exponent of the customers' shares; 0: all the same."`
	Feature         string        `short:"f" default:"messages" group:"Load" help:"The feature to check."`
	RequiredBalance string        `short:"n" default:"1" group:"Load" help:"The amount needed."`
	SendEvent       bool          `default:"true" negatable:"" group:"Load" help:"Deduct it."`
	Prepare         bool          `default:"true" negatable:"" group:"Load" help:"First create the customers that are missing, with a grant of a million each."`
	Timeout         time.Duration `default:"10s" group:"Load" help:"Give up when no result has come for so long."`
	connection      `embed:""`
}

// Check notes what is wrong with the flags.
func (c *loadCommand) Check(problems *settings.Problems) {
	c.connection.check(problems)
	if !(c.Rate > 0 && c.Rate <= 1e6) {
		problems.Add("--rate must be more than 0 and at most 1000000")
	}
	if c.Duration <= 0 || c.Duration > 24*time.Hour {
		problems.Add("--duration must be more than 0s and at most 24h")
	}
	if c.Customers < 1 || c.Customers > 1e7 {
		problems.Add("--customers must be from 1 to 10000000")
	}
	if !(c.Skew >= 0 && c.Skew <= 10) {
		problems.Add("--skew must be from 0 to 10")
	}
	if c.Timeout <= 0 {
		problems.Add("--timeout must be more than 0s")
	}
	checkNumber("required-balance", c.RequiredBalance, problems)
}

func (c *loadCommand) Run(ctx context.Context) error {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(garbagePercent)
	}
	sender, err := c.connect(ctx)
	if err != nil {
		return err
	}
	if c.Prepare {
		if err := c.prepare(ctx, sender); err != nil {
			return err
		}
	}
	results := newTally()
	ctx, stop, err := listen(ctx, sender, c.Topics.CheckResults, results.settle)
	if err != nil {
		return err
	}
	defer stop()
	began := time.Now()
	count, err := c.send(ctx, sender, results, began)
	if err != nil && ctx.Err() == nil {
		return err
	}
	sendSeconds := time.Since(began).Seconds()
	missing := results.wait(ctx, c.Timeout)
	if err := deaf(ctx); err != nil {
		return fmt.Errorf("%d checks were sent: %w", count, err)
	}
	return c.report(loaded{
		Rate: c.Rate, Sent: count, Answered: results.count(), Missing: missing, Seconds: time.Since(began).Seconds(),
		SentPerSecond: float64(count) / sendSeconds, Latency: results.latencies(), Codes: results.codes,
	})
}

// garbagePercent leaves the processor to the worker where both are on one machine.
const garbagePercent = 1000

const (
	// loadTick is how often checks are sent at the most: those due meanwhile go together.
	loadTick      = 2 * time.Millisecond
	loadInFlight  = 32
	loadBatch     = 1000
	grantPrepared = 1_000_000
	grantID       = "load"
)

// send keeps to its timetable whatever the answers do, so that a stall shows in the
// latency of all that was due meanwhile (no coordinated omission).
func (c *loadCommand) send(ctx context.Context, sender *client.Client, results *tally, began time.Time) (int, error) {
	total := int(c.Rate * c.Duration.Seconds())
	bar := newProgress(int64(total), "checks")
	defer func() { _ = bar.Finish() }()
	pick, run := newPicker(c.Customers, c.Skew), client.NewRequestID()
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(loadInFlight)
	due := func(n int) time.Time { return began.Add(time.Duration(float64(n) / c.Rate * 1e9)) }
	count := 0
	for count < total && ctx.Err() == nil {
		tick := time.Now()
		for upTo := min(total, int(tick.Sub(began).Seconds()*c.Rate)+1); count < upTo; {
			n := min(upTo-count, loadBatch)
			records := make([]kafka.Message, n)
			for i := range records {
				id := fmt.Sprintf("%s-%d", run, count+i)
				results.expect(id, due(count+i))
				records[i] = c.request(pick(), id)
			}
			count += n
			group.Go(func() error { return sender.Send(ctx, records) })
		}
		_ = bar.Set(count)
		if count%4096 < 16 {
			bar.Describe(results.latencies().String())
		}
		if next := tick.Add(loadTick); due(count).Before(next) {
			await(ctx, next)
		} else {
			awaitExactly(ctx, due(count))
		}
	}
	return count, group.Wait()
}

// await waits until a time, or until ctx ends.
func await(ctx context.Context, at time.Time) {
	select {
	case <-time.After(time.Until(at)):
	case <-ctx.Done():
	}
}

// awaitExactly is for a request of its own: Go's timers may be late by a millisecond, which
// would count as latency, so the last of it is spent looking at the clock.
func awaitExactly(ctx context.Context, at time.Time) {
	await(ctx, at.Add(-1200*time.Microsecond))
	for ctx.Err() == nil && time.Now().Before(at) {
		runtime.Gosched()
	}
}

func (c *loadCommand) request(customer int, id string) kafka.Message {
	name := customerName(customer)
	value := fmt.Appendf(nil, `{"customer_id":%q,"feature_id":%q,"required_balance":%s,"send_event":%t}`, name, c.Feature, c.RequiredBalance, c.SendEvent)
	request := client.Request{
		Topic: c.Topics.Checks, CustomerID: name, Value: value, Headers: []kafka.Header{client.Header(wire.HeaderRequestID, id)},
	}
	return request.Record()
}

func customerName(n int) string { return fmt.Sprintf("load-%d", n) }

// newPicker picks customers, the n-th with a share of n^-skew.
func newPicker(customers int, skew float64) func() int {
	if skew == 0 {
		return func() int { return rand.IntN(customers) }
	}
	sums := make([]float64, customers)
	sum := 0.0
	for i := range sums {
		sum += math.Pow(float64(i+1), -skew)
		sums[i] = sum
	}
	return func() int {
		n, _ := slices.BinarySearch(sums, rand.Float64()*sum)
		return min(n, customers-1)
	}
}

// prepare creates the customers, each with a grant; those that are there stay as
// they are.
func (c *loadCommand) prepare(ctx context.Context, sender *client.Client) error {
	results := newTally()
	ctx, stop, err := listen(ctx, sender, c.Topics.CommandResults, results.settle)
	if err != nil {
		return err
	}
	defer stop()
	run := client.NewRequestID()
	bar := newProgress(int64(c.Customers), "customers")
	defer func() { _ = bar.Finish() }()
	for from := 0; from < c.Customers; from += sendBatch {
		var records []kafka.Message
		for n := from; n < min(from+sendBatch, c.Customers); n++ {
			name := customerName(n)
			for i, value := range []string{
				fmt.Sprintf(`{"type":"customer.put","customer_id":%q}`, name),
				fmt.Sprintf(`{"type":"balance.grant","customer_id":%q,"feature_id":%q,"amount":%d,"balance_id":%q}`, name, c.Feature, grantPrepared, grantID),
			} {
				id := fmt.Sprintf("%s-%d-%d", run, n, i)
				results.expect(id, time.Now())
				request := client.Request{
					Topic: c.Topics.Commands, CustomerID: name, Value: []byte(value),
					Headers: []kafka.Header{client.Header(wire.HeaderRequestID, id)},
				}
				records = append(records, request.Record())
			}
		}
		if err := sender.Send(ctx, records); err != nil {
			return cmp.Or(deaf(ctx), err)
		}
		_ = bar.Set(min(from+sendBatch, c.Customers))
	}
	missing := results.wait(ctx, c.Timeout)
	if err := deaf(ctx); err != nil {
		return fmt.Errorf("prepare: %w", err)
	}
	if missing > 0 {
		return fmt.Errorf("prepare: %d commands have no result: %w", missing, client.ErrNoAnswer)
	}
	delete(results.codes, "ok")
	delete(results.codes, "conflict") // the grant is there already
	if len(results.codes) > 0 {
		return fmt.Errorf("prepare: commands failed: %s", strings.Join(slices.Sorted(maps.Keys(results.codes)), ", "))
	}
	return nil
}

// loaded is the summary of a load.
type loaded struct {
	Rate          float64        `json:"rate"`
	Sent          int            `json:"sent"`
	SentPerSecond float64        `json:"sent_per_second"`
	Answered      int            `json:"answered"`
	Missing       int            `json:"missing"`
	Seconds       float64        `json:"seconds"`
	Latency       latencies      `json:"latency_ms"`
	Codes         map[string]int `json:"codes"`
}

func (c *loadCommand) report(summary loaded) error {
	if c.json() {
		if err := json.NewEncoder(os.Stdout).Encode(summary); err != nil {
			return err
		}
	} else {
		fmt.Printf("%d checks sent (%.0f per second, %.0f asked for), %d answered in %.1f s\n",
			summary.Sent, summary.SentPerSecond, summary.Rate, summary.Answered, summary.Seconds)
		fmt.Printf("%v, from when each was due\n\n", summary.Latency)
		newPage(os.Stdout).codes(summary.Codes)
	}
	if summary.Missing > 0 {
		fmt.Fprintf(os.Stderr, "%d checks have no result\n", summary.Missing)
		return exitNoAnswer
	}
	return nil
}
