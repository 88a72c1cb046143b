//go:build real

package cluster

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"tollgate/internal/kafka"
	"tollgate/internal/proctest"
	"tollgate/internal/realtest"
	"tollgate/internal/servertest"
	"tollgate/internal/wire"
)

const (
	shardCustomers = 60
	granted        = 100_005 // five are of the plan
	// patience is how long a check may take while another shard is away, and takeover while a worker is replaced besides.
	patience = 3 * time.Second
	takeover = 20 * time.Second
	harmed   = 6 * time.Second // longer than the Cluster takes to call a node failed
)

// TestOneShardAwayStopsOnlyItsCustomers is issue 13, fault 12: every batch has customers of the shard, and all waited.
func TestOneShardAwayStopsOnlyItsCustomers(t *testing.T) {
	freeze := func(t *testing.T, node *realtest.Redis) { node.Freeze(t) }
	thaw := func(t *testing.T, node *realtest.Redis) { node.Thaw(t) }
	kill := func(_ *testing.T, node *realtest.Redis) { node.Kill() }
	restart := func(t *testing.T, node *realtest.Redis) { node.Start(t) }
	for _, c := range []struct {
		name         string
		harm, repair func(*testing.T, *realtest.Redis)
		killWorker   bool
	}{
		{"frozen", freeze, thaw, false},
		{"killed", kill, restart, false},
		{"frozen and the worker killed", freeze, thaw, true},
		{"killed and the worker killed", kill, restart, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newShardScene(t)
			worker, httpAddr := s.d.StartReady(t)
			stop := s.load(t)
			realtest.Until(t, "results", func() bool { return s.othersSince(time.Time{}) > 300 })
			c.harm(t, s.node)
			began := time.Now()
			realtest.UntilWithin(t, harmed, "the worker says what is away", func() bool {
				text := readyz(t, httpAddr)
				return strings.Contains(text, s.node.Addr+" does not answer") && strings.Contains(text, "records wait")
			})
			if held := proctest.Metric(t, httpAddr, "tollgate_held_back"); held == 0 {
				t.Error("no records are held back")
			}
			bound := patience
			if c.killWorker {
				bound = takeover
				worker.Kill()
				worker, httpAddr = s.d.Start(t)
			}
			realtest.Until(t, "checks while the shard is away", func() bool {
				return time.Since(began) > harmed && s.othersSince(time.Now().Add(-patience)) > 0
			})
			repaired := time.Now()
			c.repair(t, s.node)
			worker.AwaitReady(t, httpAddr)
			stop()
			realtest.Until(t, "all results", func() bool { return s.missing() == 0 })
			s.judge(t, began, repaired, bound, c.killWorker)
		})
	}
}

func readyz(t *testing.T, httpAddr string) string {
	t.Helper()
	response, err := http.Get("http://" + httpAddr + "/readyz")
	if err != nil {
		return err.Error()
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// shardScene is a worker on a Cluster of which a node will be harmed, and what its checks were answered.
type shardScene struct {
	d         *proctest.Deployment
	node      *realtest.Redis
	ofNode    map[string]bool // customers that are on it
	publisher *kafka.Publisher
	drain     *servertest.Drain

	mutex   sync.Mutex
	sent    map[string]time.Time // by request id: <customer>/<number>
	answers map[string]answer
	latest  map[string]int // of each customer, the number answered last for the first time
	wrong   []string
	repeats int
}

type answer struct {
	at    time.Time
	value string
}

func newShardScene(t *testing.T) *shardScene {
	nodes := realtest.StartCluster(t)
	var addrs []string
	for _, node := range nodes {
		addrs = append(addrs, node.Addr)
		// A kill must lose nothing that was acknowledged.
		for name, value := range map[string]string{"cluster-require-full-coverage": "no", "cluster-node-timeout": "2000", "appendfsync": "always"} {
			if err := node.Client.ConfigSet(t.Context(), name, value).Err(); err != nil {
				t.Fatal(err)
			}
		}
	}
	s := &shardScene{
		d:    proctest.NewDeploymentOn(t, servertest.Broker(t), "--redis-addrs", strings.Join(addrs, ",")),
		sent: map[string]time.Time{}, answers: map[string]answer{}, latest: map[string]int{}, ofNode: map[string]bool{},
	}
	client := redis.NewClusterClient(&redis.ClusterOptions{Addrs: addrs})
	t.Cleanup(func() { _ = client.Close() })
	has := func(key string) string {
		master, err := client.MasterForKey(t.Context(), s.d.Group+":"+key)
		if err != nil {
			t.Fatal(err)
		}
		return master.Options().Addr
	}
	for _, node := range nodes {
		// A worker cannot start without these (docs/operating.md).
		if node.Addr != has("features") && node.Addr != has("lifetimes") {
			s.node = node
		}
	}
	for n := range shardCustomers {
		customer := fmt.Sprint("customer-", n)
		s.ofNode[customer] = has("{"+customer+"}") == s.node.Addr
	}
	s.publisher = kafka.NewPublisher(s.d.Broker, kafka.PublisherOptions{}, servertest.Silent())
	s.drain = servertest.NewDrain(t, s.d.Broker, s.d.Topics.CheckResults)
	return s
}

// load sends checks of all customers until it is stopped.
func (s *shardScene) load(t *testing.T) (stop func()) {
	const every, atOnce = 20 * time.Millisecond, 10
	for customer := range s.ofNode {
		s.d.Command(t, customer, `{"type":"customer.put","customer_id":%q}`, customer)
		s.d.Command(t, customer, `{"type":"balance.grant","customer_id":%q,"feature_id":"messages","amount":100000}`, customer)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() {
		for ctx.Err() == nil || s.missing() > 0 && t.Context().Err() == nil {
			s.read(t)
			time.Sleep(every)
		}
	})
	sending := make(chan struct{})
	running.Go(func() {
		defer close(sending)
		for n := 0; ctx.Err() == nil; {
			var records []kafka.Message
			for range atOnce {
				customer := fmt.Sprint("customer-", n%shardCustomers)
				id := fmt.Sprint(customer, "/", n/shardCustomers)
				records = append(records, kafka.Message{
					Topic: s.d.Topics.Checks, Partition: -1, Key: []byte(customer),
					Value:   fmt.Appendf(nil, `{"customer_id":%q,"feature_id":"messages","send_event":true}`, customer),
					Headers: []kafka.Header{{Key: wire.HeaderRequestID, Value: []byte(id)}},
				})
				s.mutex.Lock()
				s.sent[id] = time.Now()
				s.mutex.Unlock()
				n++
			}
			if err := s.publisher.Publish(context.WithoutCancel(ctx), records, kafka.Delivery{}); err != nil {
				t.Error(err)
				return
			}
			select {
			case <-ctx.Done():
			case <-time.After(every):
			}
		}
	})
	t.Cleanup(func() { cancel(); running.Wait() })
	return func() { cancel(); <-sending }
}

// read takes the results that have come, and holds them against what they must be.
func (s *shardScene) read(t *testing.T) {
	t.Helper()
	records, err := s.drain.Next(t.Context())
	if err != nil && t.Context().Err() == nil {
		t.Error(err)
	}
	s.mutex.Lock()
	defer s.mutex.Unlock()
	for i := range records {
		var result wire.ResultRecord
		if err := json.Unmarshal(records[i].Value, &result); err != nil {
			t.Error(err)
			continue
		}
		if known, again := s.answers[result.RequestID]; again {
			s.repeats++
			if known.value != string(records[i].Value) {
				s.wrong = append(s.wrong, fmt.Sprintf("%s, then %s", known.value, records[i].Value))
			}
			continue
		}
		customer, text, _ := strings.Cut(result.RequestID, "/")
		n, err := strconv.Atoi(text)
		if want := granted - n - 1; err != nil || result.Balance == nil || result.Balance.Remaining.String() != strconv.Itoa(want) || n != s.latest[customer] {
			s.wrong = append(s.wrong, fmt.Sprintf("want %d left, behind %d of the customer: %s", want, s.latest[customer], records[i].Value))
		}
		s.latest[customer] = n + 1
		s.answers[result.RequestID] = answer{time.Now(), string(records[i].Value)}
	}
}

// missing is how many checks are not answered yet.
func (s *shardScene) missing() int {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	return len(s.sent) - len(s.answers)
}

// othersSince is how many checks that were sent since then are answered of customers on other nodes.
func (s *shardScene) othersSince(begin time.Time) (n int) {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	for id := range s.answers {
		customer, _, _ := strings.Cut(id, "/")
		if !s.ofNode[customer] && s.sent[id].After(begin) {
			n++
		}
	}
	return n
}

// judge holds what came against what was promised. bound is how long checks may take on the other nodes.
func (s *shardScene) judge(t *testing.T, began, repaired time.Time, bound time.Duration, mayRepeat bool) {
	t.Helper()
	s.mutex.Lock()
	defer s.mutex.Unlock()
	var worst, worstOther time.Duration
	others, early, worstAt := 0, 0, began
	for id, answered := range s.answers {
		customer, _, _ := strings.Cut(id, "/")
		took := answered.at.Sub(s.sent[id])
		if s.ofNode[customer] {
			worst = max(worst, took)
			if s.sent[id].After(began.Add(time.Second)) && answered.at.Before(repaired) {
				early++
			}
			continue
		}
		others++
		if took > worstOther {
			worstOther, worstAt = took, s.sent[id]
		}
	}
	t.Logf("%d checks, %d on other nodes, answered within %v; on the harmed node within %v; %d repeats; the slowest was sent %v behind the fault, %v behind its end", len(s.sent), others, worstOther, worst, s.repeats, worstAt.Sub(began), worstAt.Sub(repaired))
	if worstOther > bound {
		t.Errorf("a check on another node took %v", worstOther)
	}
	if early > 0 || worst < harmed/2 {
		t.Errorf("the node was not away: %d of its checks were answered meanwhile, all within %v", early, worst)
	}
	if len(s.wrong) > 0 {
		t.Errorf("%d wrong, such as %s", len(s.wrong), s.wrong[0])
	}
	if s.repeats > 0 && !mayRepeat {
		t.Errorf("%d results came twice", s.repeats)
	}
	used := map[string]int{}
	for id := range s.sent {
		customer, _, _ := strings.Cut(id, "/")
		used[customer]++
	}
	for customer, n := range used {
		pool := s.d.Command(t, customer, `{"type":"customer.get","customer_id":%q}`, customer).Balances["messages"]
		if pool.Usage.String() != strconv.Itoa(n) {
			t.Errorf("%s: %s used, want %d", customer, pool.Usage, n)
		}
	}
}
