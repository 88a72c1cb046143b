//go:build real

// Package cluster runs three workers on a Redis Cluster of three: `make cluster`.
package cluster

import (
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/redis/go-redis/v9"

	"tollgate/internal/proctest"
	"tollgate/internal/realtest"
	"tollgate/internal/servertest"
)

func TestMain(m *testing.M) { os.Exit(proctest.Main(m)) }

func TestThreeWorkersShareACluster(t *testing.T) {
	const customers, perSecond, seconds = 300, 2000, 4
	nodes := realtest.StartCluster(t)
	var addrs []string
	for _, node := range nodes {
		addrs = append(addrs, node.Addr)
	}
	d := proctest.NewDeploymentOn(t, servertest.Broker(t), "--redis-addrs", strings.Join(addrs, ","))
	var workers []string
	for range 3 {
		_, httpAddr := d.StartReady(t)
		workers = append(workers, httpAddr)
	}
	out := proctest.Run(t, nil, "producer", append([]string{
		"load", "--kafka-brokers", d.Broker.Addresses[0], "--customers", fmt.Sprint(customers), "--rate", fmt.Sprint(perSecond),
		"--duration", fmt.Sprint(seconds, "s"), "-o", "json",
	}, d.TopicFlags...)...)
	var load struct {
		Sent, Answered, Missing int
		Codes                   map[string]int
	}
	if err := json.Unmarshal([]byte(out.Stdout), &load); err != nil || load.Sent != perSecond*seconds || load.Codes["included"] != load.Sent || load.Missing > 0 {
		t.Fatalf("%v: %s%s", err, out.Stdout, out.Stderr)
	}
	used := 0.0
	for n := range customers {
		customer := fmt.Sprint("load-", n)
		pool := d.Command(t, customer, `{"type":"customer.get","customer_id":%q}`, customer).Balances["messages"]
		usage, err := pool.Usage.Float64()
		if err != nil {
			t.Fatal(err)
		}
		used += usage
	}
	if int(used) != load.Sent {
		t.Errorf("%d checks were allowed, %g messages are used", load.Sent, used)
	}
	for _, node := range nodes {
		if keys := node.Client.DBSize(t.Context()).Val(); keys < customers/6 {
			t.Errorf("node %s has %d keys", node.Addr, keys)
		}
	}
	for _, worker := range workers {
		if decided := proctest.Metric(t, worker, "tollgate_checks_total"); decided == 0 {
			t.Errorf("worker %s decided nothing", worker)
		}
	}
}

// TestANodeOfAClusterIsNotTakenForARedisByItself is a regression: its refusals were retried for ever.
func TestANodeOfAClusterIsNotTakenForARedisByItself(t *testing.T) {
	nodes := realtest.StartCluster(t)
	d := proctest.NewDeploymentOn(t, servertest.Broker(t), "--redis-addrs", nodes[0].Addr)
	worker, _ := d.Start(t)
	if code := worker.Wait(t); code == 0 || !strings.Contains(worker.Output(), "node of a Cluster") {
		t.Errorf("exit code %d: %s", code, worker.Output())
	}
}

// TestASlotLeftInMigrationStopsNobody is a regression: a step with several keys was answered TRYAGAIN for as
// long as the slot was moving.
func TestASlotLeftInMigrationStopsNobody(t *testing.T) {
	nodes := realtest.StartCluster(t)
	var addrs []string
	for _, node := range nodes {
		addrs = append(addrs, node.Addr)
	}
	d := proctest.NewDeploymentOn(t, servertest.Broker(t), "--redis-addrs", strings.Join(addrs, ","))
	d.StartReady(t)
	d.Command(t, "acme", `{"type":"customer.put","customer_id":"acme"}`)
	slot := nodes[0].Client.ClusterKeySlot(t.Context(), "acme").Val()
	ids := make([]string, len(nodes))
	from := -1
	for i, node := range nodes {
		id, err := node.Client.Do(t.Context(), "CLUSTER", "MYID").Text()
		if err != nil {
			t.Fatal(err)
		}
		ids[i] = id
		// Every other node says where the key is.
		if err := node.Client.Get(t.Context(), "{acme}").Err(); !redis.HasErrorPrefix(err, "MOVED") {
			from = i
		}
	}
	if from < 0 {
		t.Fatalf("no node of %v has slot %d", ids, slot)
	}
	to := (from + 1) % len(nodes)
	for _, step := range []struct {
		node  int
		state []any
	}{{to, []any{"CLUSTER", "SETSLOT", slot, "IMPORTING", ids[from]}}, {from, []any{"CLUSTER", "SETSLOT", slot, "MIGRATING", ids[to]}}} {
		if err := nodes[step.node].Client.Do(t.Context(), step.state...).Err(); err != nil {
			t.Fatal(err)
		}
	}
	for range 3 {
		result := d.Check(t, "acme", `{"customer_id":"acme","feature_id":"messages","send_event":true}`)
		if !result.Allowed {
			t.Fatalf("got %+v", result)
		}
	}
}
