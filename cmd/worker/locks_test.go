package main

import (
	"encoding/json"
	"fmt"
	"testing"
	"time"

	"github.com/segmentio/kafka-go"

	"tollgate/internal/balance"
	"tollgate/internal/proctest"
	"tollgate/internal/servertest"
	"tollgate/internal/wire"
)

// lockResult is the result of a command about a lock.
type lockResult struct {
	Type        string                      `json:"type"`
	CustomerID  string                      `json:"customer_id"`
	EvaluatedAt int64                       `json:"evaluated_at"`
	Lock        *wire.LockRecord            `json:"lock"`
	Balances    map[string]*wire.PoolRecord `json:"balances"`
}

// sweepBound is how late a lock may expire if nobody asks for its customer.
const sweepBound = 5 * time.Second

// TestALockExpiresIfNobodyAsks, also if the worker that made it is killed.
func TestALockExpiresIfNobodyAsks(t *testing.T) {
	d := proctest.NewDeployment(t)
	first, _ := d.StartReady(t)
	results := servertest.NewDrain(t, d.Broker, d.Topics.CommandResults)
	const lockers = 5
	for i := range lockers {
		id := fmt.Sprintf("locker-%d", i)
		d.Command(t, id, `{"type":"customer.put","customer_id":%q}`, id)
		d.Command(t, id, `{"type":"balance.grant","customer_id":%q,"feature_id":"images","amount":10,"balance_id":"gift"}`, id)
		expires := time.Now().Add(2 * time.Second).UnixMilli()
		held := d.Check(t, id, fmt.Sprintf(`{"customer_id":%q,"feature_id":"images","required_balance":4,"lock":{"enabled":true,"lock_id":"l","expires_at":%d}}`, id, expires))
		if held.Lock == nil || held.Lock.ExpiresAt != expires || held.Balance.Held != "4" || held.UsageEventID != "" {
			t.Fatalf("got %+v of %+v", held.Lock, held.Balance)
		}
	}
	first.Kill()
	d.StartReady(t)
	ready := time.Now().UnixMilli()
	expired := map[string]bool{}
	for deadline := time.Now().Add(proctest.AnswerTimeout); len(expired) < lockers; {
		records, err := results.Next(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, record := range records {
			r := readLock(t, record)
			if r.Type != "lock.expire" || r.Lock == nil || r.Lock.State != balance.LockHasExpired {
				continue
			}
			expired[r.CustomerID] = true
			if late := time.Duration(r.EvaluatedAt-max(ready, r.Lock.ExpiresAt)) * time.Millisecond; late > sweepBound {
				t.Errorf("%s: the lock expired %v late", r.CustomerID, late)
			}
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d of %d locks have expired", len(expired), lockers)
		}
	}
	left := d.Check(t, "locker-0", `{"customer_id":"locker-0","feature_id":"images"}`)
	if left.Balance.Held != "0" || left.Balance.Remaining != "10" {
		t.Errorf("left: %+v", left.Balance)
	}
}

func readLock(t *testing.T, record kafka.Message) (r lockResult) {
	t.Helper()
	if err := json.Unmarshal(record.Value, &r); err != nil {
		t.Fatal(err)
	}
	return r
}
