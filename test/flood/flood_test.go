//go:build real

// Package flood gives workers more than they can take at once: `make flood`.
package flood

import (
	"fmt"
	"net/http"
	"os"
	"testing"
	"time"

	kafkago "github.com/segmentio/kafka-go"

	"tollgate/internal/client"
	"tollgate/internal/kafka"
	"tollgate/internal/proctest"
	"tollgate/internal/realtest"
	"tollgate/internal/servertest"
)

func TestMain(m *testing.M) {
	os.Exit(proctest.Main(m))
}

const (
	customers = 1000
	// mostBytes bounds the memory of a worker, whatever waits (docs/reliability.md).
	mostBytes = 256 << 20
	patience  = 20 * time.Minute
)

// scene is a deployment on real servers.
type scene struct {
	*testing.T
	d *proctest.Deployment
}

func newScene(t *testing.T, flags ...string) *scene {
	k, r := realtest.StartKafka(t, realtest.KafkaOptions{}), realtest.StartRedis(t)
	return &scene{t, proctest.NewDeploymentOn(t, servertest.BrokerAt(t, k.Addr), append(flags, "--redis-addrs", r.Addr)...)}
}

func (s *scene) grant(names ...string) {
	s.Helper()
	for _, name := range names {
		s.d.Command(s.T, name, `{"type":"customer.put","customer_id":%q}`, name)
		s.d.Command(s.T, name, `{"type":"balance.grant","customer_id":%q,"feature_id":"images","amount":100000000,"balance_id":"gift"}`, name)
	}
}

func (s *scene) send(n int, name func(i int) string) {
	s.Helper()
	const batch = 5000
	for from := 0; from < n; from += batch {
		var records []kafka.Message
		for i := from; i < min(from+batch, n); i++ {
			customer := name(i)
			request := client.Request{
				Topic: s.d.Topics.Checks, CustomerID: customer,
				Value: fmt.Appendf(nil, `{"customer_id":%q,"feature_id":"images","send_event":true}`, customer),
			}
			records = append(records, request.Record())
		}
		if err := s.d.Client.Send(s.Context(), records); err != nil {
			s.Fatal(err)
		}
	}
}

// written is how many records a topic has had.
func (s *scene) written(topic string) (sum int64) {
	s.Helper()
	for partition := range proctest.Partitions {
		end, err := s.d.Broker.LastOffset(s.Context(), topic, partition)
		if err != nil {
			s.Fatal(err)
		}
		sum += end
	}
	return sum
}

// committed is how many checks are answered for good.
func (s *scene) committed() (sum int64) {
	s.Helper()
	offsets, err := s.d.Broker.Committed(s.Context(), s.d.Group, s.d.Topics.Checks, []int{0, 1, 2, 3})
	if err != nil {
		s.Fatal(err)
	}
	for _, offset := range offsets {
		sum += max(0, offset)
	}
	return sum
}

// TestABacklogIsWorkedOffWithinBoundedMemory works a backlog off at least once, and then
// the same checks once more, exactly once.
func TestABacklogIsWorkedOffWithinBoundedMemory(t *testing.T) {
	backlog := 5_000_000
	if testing.Short() {
		backlog = 200_000
	}
	s := newScene(t)
	worker, _ := s.d.StartReady(t)
	names := make([]string, customers)
	for i := range names {
		names[i] = fmt.Sprintf("customer-%d", i)
	}
	s.grant(names...)
	if code := worker.Stop(t); code != 0 {
		t.Fatalf("exit code %d", code)
	}
	for _, exactlyOnce := range []bool{false, true} {
		s.send(backlog, func(i int) string { return names[i%customers] })
		events := s.written(s.d.Topics.UsageEvents)
		began := time.Now()
		worker, _ = s.d.Start(t, fmt.Sprintf("--exactly-once=%t", exactlyOnce))
		most := int64(0)
		realtest.UntilWithin(t, patience, "backlog", func() bool {
			most = max(most, worker.ResidentBytes(t))
			return s.committed() == s.written(s.d.Topics.Checks)
		})
		took := time.Since(began)
		if events := s.written(s.d.Topics.UsageEvents) - events; events < int64(backlog) {
			t.Errorf("%d usage events", events)
		}
		t.Logf("exactly once %t: %d records in %.0f s (%.0f per second), %d MiB of memory at the most",
			exactlyOnce, backlog, took.Seconds(), float64(backlog)/took.Seconds(), most>>20)
		if most > mostBytes {
			t.Errorf("the worker took %d MiB", most>>20)
		}
		if code := worker.Stop(t); code != 0 {
			t.Errorf("exit code %d", code)
		}
	}
}

func TestACustomerThatSendsMostOfTheTrafficDoesNotStopOthers(t *testing.T) {
	s := newScene(t)
	s.d.StartReady(t)
	partitionOf := func(name string) int {
		return kafkago.Murmur2Balancer{Consistent: true}.Balance(kafka.Message{Key: []byte(name)}, 0, 1, 2, 3)
	}
	quiet := "quiet"
	for n := 0; partitionOf(quiet) == partitionOf("loud"); n++ {
		quiet = fmt.Sprintf("quiet-%d", n)
	}
	s.grant("loud", quiet)
	done := make(chan struct{})
	go func() {
		defer close(done)
		s.send(300_000, func(int) string { return "loud" })
	}()
	var slowest time.Duration
	asked := 0
	for flooding := true; flooding; asked++ {
		began := time.Now()
		if r := s.d.Check(t, quiet, fmt.Sprintf(`{"customer_id":%q,"feature_id":"images","send_event":true}`, quiet)); !r.Allowed {
			t.Fatalf("got %+v", r)
		}
		slowest = max(slowest, time.Since(began))
		select {
		case <-done:
			flooding = false
		default:
		}
	}
	t.Logf("%d checks of the quiet customer while the loud one flooded, the slowest answered in %v", asked, slowest.Round(time.Millisecond))
	if slowest > 5*time.Second {
		t.Errorf("the quiet customer waited for %v", slowest)
	}
}

// TestASlowBrokerSlowsTheReading has Kafka take the worker's results more slowly (a quota)
// than checks come.
func TestASlowBrokerSlowsTheReading(t *testing.T) {
	const (
		checks          = 30_000
		bytesPerSecond  = 200_000 // some 150 results with their events
		mostInFlight    = 3 * 500 * proctest.Partitions
		slowLongEnough  = 15 * time.Second
		workersClientID = "tollgate-worker"
	)
	s := newScene(t)
	worker, httpAddr := s.d.StartReady(t)
	names := make([]string, customers)
	for i := range names {
		names[i] = fmt.Sprintf("customer-%d", i)
	}
	s.grant(names...)
	s.quota(workersClientID, kafkago.AlterClientQuotaOps{Key: "producer_byte_rate", Value: bytesPerSecond})
	s.send(checks, func(i int) string { return names[i%customers] })
	most, inFlight, began := int64(0), 0.0, time.Now()
	realtest.Until(t, "slowness", func() bool {
		most, inFlight = max(most, worker.ResidentBytes(t)), max(inFlight, proctest.Metric(t, httpAddr, "tollgate_in_flight"))
		return time.Since(began) > slowLongEnough
	})
	answered := s.written(s.d.Topics.CheckResults)
	if answered > checks/2 || inFlight == 0 || inFlight > mostInFlight || most > mostBytes {
		t.Errorf("%d answered, %.0f in flight, %d MiB", answered, inFlight, most>>20)
	}
	if code, _ := proctest.Get(t, "http://"+httpAddr+"/readyz"); code != http.StatusOK {
		t.Errorf("not ready while Kafka is slow: %d", code)
	}
	t.Logf("%d of %d answered in %v, at the most %.0f in flight and %d MiB of memory", answered, checks, slowLongEnough, inFlight, most>>20)
	s.quota(workersClientID, kafkago.AlterClientQuotaOps{Key: "producer_byte_rate", Remove: true})
	realtest.UntilWithin(t, patience, "the rest", func() bool { return s.written(s.d.Topics.CheckResults) >= checks })
	if code := worker.Stop(t); code != 0 {
		t.Errorf("exit code %d", code)
	}
	for _, topic := range []string{s.d.Topics.CheckResults, s.d.Topics.UsageEvents} {
		records, err := servertest.NewDrain(t, s.d.Broker, topic).Next(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		distinct := map[string]bool{}
		for _, record := range records {
			distinct[string(record.Value)] = true
		}
		if len(distinct) != checks {
			t.Errorf("%d different records in %s", len(distinct), topic)
		}
	}
}

func (s *scene) quota(clientID string, op kafkago.AlterClientQuotaOps) {
	s.Helper()
	response, err := s.d.Broker.Client.AlterClientQuotas(s.Context(), &kafkago.AlterClientQuotasRequest{Entries: []kafkago.AlterClientQuotaEntry{{
		Entities: []kafkago.AlterClientQuotaEntity{{EntityType: "client-id", EntityName: clientID}}, Ops: []kafkago.AlterClientQuotaOps{op},
	}}})
	if err != nil || response.Entries[0].Error != nil {
		s.Fatal(err, response)
	}
}
