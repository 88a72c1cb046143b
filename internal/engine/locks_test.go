package engine_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/segmentio/kafka-go"

	"tollgate/internal/engine"
	"tollgate/internal/stream"
)

// A lock that is denied is no lock; it stays in the index for 24 hours, and leads to a command then.
func TestADeniedLockIsNotInTheIndex(t *testing.T) {
	r := newRig(t, lockCatalogue)
	for range 5 {
		if got := r.check(`{"customer_id":"acme","feature_id":"m","required_balance":3,"lock":{"enabled":true}}`); got.Allowed {
			t.Fatalf("%+v", got)
		}
	}
	if n := r.client.ZCard(t.Context(), r.prefix+"locks").Val(); n != 0 {
		t.Errorf("%d locks in the index, and none is held", n)
	}
}

// A request that is refused tells nothing of the lock that has its id: the index must keep that.
func TestARefusedRequestLeavesTheLockOfItsIDInTheIndex(t *testing.T) {
	r := newRig(t, lockCatalogue)
	r.command(`{"type":"balance.grant","customer_id":"acme","feature_id":"m","amount":10,"balance_id":"gift"}`)
	if got := r.check(`{"customer_id":"acme","feature_id":"m","lock":{"enabled":true,"lock_id":"l"}}`); got.Lock == nil {
		t.Fatalf("%+v", got)
	}
	for _, refused := range []string{
		`{"customer_id":"acme","feature_id":"m","required_balance":-1,"lock":{"enabled":true,"lock_id":"l"}}`,
		`{"customer_id":"acme","feature_id":"m","lock":{"enabled":true,"lock_id":"l","overage_behavior":"?"}}`,
		`{"customer_id":"acme","feature_id":"m","entity_id":"nobody","lock":{"enabled":true,"lock_id":"l"}}`,
		`{"customer_id":"acme","feature_id":"m","lock":{"enabled":true,"lock_id":"l"}}`,
	} {
		if got := r.check(refused); got.Error == nil {
			t.Fatalf("%+v", got)
		}
		if n := r.client.ZCard(t.Context(), r.prefix+"locks").Val(); n != 1 {
			t.Errorf("%d locks in the index, and one is held, behind %s", n, refused)
		}
	}
}

const lockCatalogue = `
features:
  - id: m
    type: metered
    consumable: true
plans: []
`

// The shard that has the index of locks is away: a batch with one lock in it stops the customers of all shards.
func TestTheShardOfTheIndexStopsOnlyItsCustomers(t *testing.T) {
	r := newShardedRig(t, engine.HoldBack{})
	client, err := r.shards.client.MasterForKey(t.Context(), r.prefix+"locks")
	if err != nil {
		t.Fatal(err)
	}
	index := 0
	for i := range 3 {
		if client.Options().Addr == shardAddr(i) {
			index = i
		}
	}
	decider := r.engine.Partition(topics.Checks, 3)
	r.shards.set(index, away)
	one, other := r.customers[(index+1)%3][0], r.customers[(index+2)%3][0]
	r.append(one, 1)
	r.append(other, 1)
	value := fmt.Sprintf(`{"customer_id":%q,"feature_id":"m","required_balance":1,"lock":{"enabled":true}}`, one)
	batch := r.batch(0, 2, 0)
	batch.Records = append(batch.Records, kafka.Message{Topic: topics.Checks, Offset: 2, Time: time.UnixMilli(2), Key: []byte(one), Value: []byte(value)})
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
	defer cancel()
	var decision stream.Decision
	decision, err = decider.Decide(ctx, batch)
	if err != nil || len(decision.Records) < 4 {
		t.Errorf("%d records, %v: customers of shards that are well wait for the shard of the index", len(decision.Records), err)
	}
}
