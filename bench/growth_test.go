//go:build bench

package bench

import (
	"fmt"

	"tollgate/bench/report"
	"tollgate/internal/balance"
	"tollgate/internal/store"
)

// growth measures how the cost of a check grows, one dimension after the other.
func growth(r *rig, into *report.Report) {
	into.Growth = map[string][]report.Point{}
	add := func(dimension string, size int, w workload, in shape) {
		r.Logf("%s: %d", dimension, size)
		into.Growth[dimension] = append(into.Growth[dimension], report.Point{Size: size, Run: r.workerIn(w, in, *checks)})
	}
	for _, n := range []int{1_000, 10_000, 100_000, 1_000_000} {
		w, perCustomer := sendEvent, 0.0
		w.provision = func(b *bench, customers int) {
			before := r.usedBytes()
			b.provision(customers)
			perCustomer = (r.usedBytes() - before) / float64(customers)
		}
		add("customers", n, w, shape{n, partitions, 1})
		points := into.Growth["customers"]
		points[len(points)-1].BytesPerCustomer = perCustomer
	}
	for _, n := range []int{1, 2, 5, 10, 20, 50} {
		w := sendEvent
		w.provision = func(b *bench, customers int) {
			b.provision(customers)
			b.addGrants(customers, n-1)
		}
		add("balances of the feature", n, w, usual)
	}
	for _, n := range []int{1, 10, 100, 1_000, 10_000} {
		w := workload{name: "per entity", event: true, body: func(i, customer int) string {
			return fmt.Sprintf(`{"customer_id":"customer-%d","feature_id":"messages","entity_id":"seat-%d","required_balance":1,"send_event":true}`, customer, i*31%n)
		}}
		few := max(partitions, min(customers, 40_000/n))
		w.provision = func(b *bench, customers int) {
			b.provision(customers)
			b.addEntities(customers, n)
		}
		add("entities", n, w, shape{few, partitions, 1})
	}
	for _, n := range []int{1, 2, 4, 8, 16, 32, 64} {
		add("partitions", n, sendEvent, shape{customers, n, 1})
	}
	for _, n := range []int{1, 2, 3, 4} {
		add("workers", n, sendEvent, shape{customers, 2 * partitions, n})
	}
}

// addGrants gives each customer standalone balances of messages.
func (b *bench) addGrants(customers, each int) {
	b.Helper()
	for customer := range customers {
		var calls []store.Call
		for n := range each {
			calls = append(calls, b.store.BalanceGrant(b.step(customer), b.items, store.Grant{
				FeatureID: "messages", BalanceID: fmt.Sprint("grant-", n), Units: 1_000_000, Reset: balance.Reset{},
			}))
		}
		b.run(calls)
	}
}
