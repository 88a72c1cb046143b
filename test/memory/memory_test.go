//go:build real

// Package memory measures what customers cost in Redis: `make memory`.
package memory

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"tollgate/deploy"
	"tollgate/internal/balance"
	"tollgate/internal/catalog"
	"tollgate/internal/proctest"
	"tollgate/internal/realtest"
	"tollgate/internal/store"
)

func TestMain(m *testing.M) {
	os.Exit(proctest.Main(m))
}

const batch = 500

// fixture is a Redis with customers that have the plan pro.
type fixture struct {
	*testing.T
	redis     *realtest.Redis
	store     *store.Store
	items     *store.Items
	catalog   *balance.Catalog
	customers int
	offset    int64
	now       time.Time
}

// Topics as a Kafka cluster with an id of the usual length has them.
const (
	clusterID     = "5L6g3nShT-eMCtK--X86sw"
	checksTopic   = "balance.checks"
	commandsTopic = "balance.commands"
	partitions    = 12
)

func sourceOf(topic string, n int) string {
	return store.Source(clusterID, topic, n%partitions, "lifetime")
}

// forget has the outcomes of a topic forgotten.
func (f *fixture) forget(topic string) {
	f.Helper()
	for n := range partitions {
		if err := f.store.Forget(f.Context(), sourceOf(topic, n), f.offset+1, nil); err != nil {
			f.Fatal(err)
		}
	}
}

func (f *fixture) step(n int, committed int64) store.Step {
	f.offset++
	return store.Step{
		Customer: fmt.Sprintf("customer-%d", n), Remember: true,
		Origin: store.Origin{Source: sourceOf(checksTopic, n), Offset: f.offset, TimestampMs: time.Now().UnixMilli(), Committed: committed},
	}
}

// each runs the calls that one customer after the other gets.
func (f *fixture) each(calls func(n int) []store.Call) {
	f.Helper()
	for from := 0; from < f.customers; from += batch {
		var all []store.Call
		for n := from; n < min(from+batch, f.customers); n++ {
			all = append(all, calls(n)...)
		}
		replies, err := f.store.Run(f.Context(), f.now, all)
		if err != nil {
			f.Fatal(err)
		}
		for _, reply := range replies {
			if reply.Err != nil {
				f.Fatal(reply.Err)
			}
		}
	}
}

func (f *fixture) check(n int, committed int64) store.Call {
	return f.store.Check(&store.Check{
		Step: f.step(n, committed), FeatureID: "messages", Deduct: true, Needs: []store.Need{{FeatureID: "messages", Units: 1}},
	}, f.items)
}

func (f *fixture) usedBytes() int64 {
	f.Helper()
	info, err := f.redis.Client.Info(context.Background(), "memory").Result()
	if err != nil {
		f.Fatal(err)
	}
	_, rest, _ := strings.Cut(info, "used_memory:")
	text, _, _ := strings.Cut(rest, "\r\n")
	bytes, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		f.Fatal(err)
	}
	return bytes
}

func (f *fixture) memoryUsage(key string) int64 {
	f.Helper()
	bytes, err := f.redis.Client.MemoryUsage(context.Background(), key, 0).Result()
	if err != nil {
		f.Fatalf("%s: %v", key, err)
	}
	return bytes
}

func TestMemoryPerCustomerAndPerRequest(t *testing.T) {
	f := &fixture{T: t, customers: 1_000_000, now: time.Now()}
	if testing.Short() {
		f.customers = 10_000
	}
	f.redis = realtest.StartRedis(t, "--appendonly", "no")
	var err error
	if f.store, err = store.New(f.redis.Client, store.Options{Prefix: "tollgate:"}); err != nil {
		t.Fatal(err)
	}
	if f.catalog, err = catalog.Parse(deploy.Catalog); err != nil {
		t.Fatal(err)
	}
	f.items = store.NewItems(f.catalog)
	per := func(bytes int64) int64 { return bytes / int64(f.customers) }

	empty := f.usedBytes()
	f.each(func(n int) []store.Call {
		put := f.step(n, 0)
		put.Origin.Source = sourceOf(commandsTopic, n)
		attach := f.step(n, put.Origin.Offset) // put is committed
		attach.Origin.Source = sourceOf(commandsTopic, n)
		return []store.Call{
			f.store.CustomerPut(put, f.items, "", "", ""),
			f.store.PlanAttach(attach, f.items, f.catalog.Plan("pro"), nil, time.Time{}, 0),
		}
	})
	provisioned := f.usedBytes()
	f.forget(commandsTopic)
	restedProvisioned := f.usedBytes()
	f.each(func(n int) []store.Call { return []store.Call{f.check(n, 0)} })
	once := f.usedBytes()
	for range 3 {
		committed := f.offset
		f.each(func(n int) []store.Call { return []store.Call{f.check(n, committed)} })
	}
	often := f.usedBytes()
	f.forget(checksTopic)
	rested := f.usedBytes()

	fmt.Printf("\n| with %d customers on the plan pro | bytes a customer |\n| --- | ---: |\n", f.customers)
	for _, row := range []struct {
		what  string
		bytes int64
	}{
		{"all, right after customer.put and plan.attach", per(provisioned - empty)},
		{"all, when these outcomes are forgotten", per(restedProvisioned - empty)},
		{"all, right after one check with send_event", per(once - empty)},
		{"all, right after four checks, each committed before the next", per(often - empty)},
		{"all, when their outcomes are forgotten", per(rested - empty)},
		{"MEMORY USAGE of the customer's key", f.memoryUsage("tollgate:{customer-7}")},
	} {
		fmt.Printf("| %s | %d |\n", row.what, row.bytes)
	}
	if grown := per(often - once); grown > 8 {
		t.Errorf("three more checks, committed, left %d bytes a customer", grown)
	}
	if left := per(rested - restedProvisioned); left > 64 {
		t.Errorf("checks that are forgotten leave %d bytes a customer", left)
	}
}
