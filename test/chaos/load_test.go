//go:build chaos

package chaos

import (
	"context"
	"encoding/json"
	"fmt"
	"math"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/segmentio/kafka-go"
	"golang.org/x/sync/errgroup"

	"tollgate/internal/balance"
	"tollgate/internal/client"
	"tollgate/internal/proctest"
	"tollgate/internal/realtest"
	"tollgate/internal/servertest"
	"tollgate/internal/wire"
)

const (
	rate      = 2500 // checks per second; the promise is for at least 2,000
	customers = 1000
	// What each customer is granted: about two thirds of what will be asked of it.
	grantPerSecond = 0.9
	precision      = 6 // of credits
	drainTimeout   = 3 * time.Minute
)

func customerName(n int) string { return fmt.Sprintf("customer-%d", n) }

const strangers = "stranger-"

// strangerName is that of a customer that nobody has put.
func strangerName(n any) string { return fmt.Sprint(strangers, n) }

// scene is a deployment with a load on it, and what is seen of it.
type scene struct {
	*testing.T
	d       *proctest.Deployment
	grant   string
	reset   string // of the grant, "" for one that lasts
	resets  int    // that were seen
	varied  bool   // some checks have an idempotency key of their own, and strangers ask, too
	workers []*proctest.Process
	flags   [][]string // of each worker, beside the common ones

	sent    atomic.Int64
	results *servertest.Drain
	seen    map[string]string // results by request id, as they came first
	repeats int               // of results
	once    bool              // there must be none
	wrong   []string
	latest  map[string]int64 // offset of the latest request of a customer that was answered first

	afterwards func() // is done at the end, if it is not nil

	mutex    sync.Mutex
	answered int
	marks    []mark
}

// mark is a moment at which so many requests had been sent, and when all of these were
// answered.
type mark struct {
	sent     int
	at, done time.Time
}

// mark notes that a fault has ended.
func (s *scene) mark() {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	s.marks = append(s.marks, mark{sent: int(s.sent.Load()), at: time.Now()})
}

// recovery is the longest time that it took until all that was sent by the end of a
// fault was answered.
func (s *scene) recovery() (longest time.Duration) {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	for _, m := range s.marks {
		longest = max(longest, m.done.Sub(m.at))
	}
	return longest
}

// startWorkers starts workers and waits until they are ready.
func (s *scene) startWorkers(flags ...[]string) {
	s.Helper()
	s.flags = flags
	for i := range flags {
		s.workers = append(s.workers, s.startWorker(i))
	}
}

func (s *scene) startWorker(i int) *proctest.Process {
	s.Helper()
	worker, _ := s.d.StartReady(s.T, s.flags[i]...)
	return worker
}

// restart kills a worker and starts another in its place.
func (s *scene) restart(i int) {
	s.Helper()
	s.workers[i].Kill()
	s.workers[i], _ = s.d.Start(s.T, s.flags[i]...)
}

// provision makes the customers, each with a grant of credits.
func (s *scene) provision(duration time.Duration) {
	s.Helper()
	s.grant = strconv.Itoa(int(grantPerSecond * duration.Seconds() * rate / customers))
	results := servertest.NewDrain(s.T, s.d.Broker, s.d.Topics.CommandResults)
	var records []kafka.Message
	for n := range customers {
		name := customerName(n)
		for _, body := range []string{
			fmt.Sprintf(`{"type":"customer.put","customer_id":%q}`, name),
			fmt.Sprintf(`{"type":"balance.grant","customer_id":%q,"feature_id":"credits","amount":%s,"balance_id":"gift"%s}`, name, s.grant, s.reset),
		} {
			request := client.Request{Topic: s.d.Topics.Commands, CustomerID: name, Value: []byte(body), Headers: []kafka.Header{client.Header("request-id", body)}}
			records = append(records, request.Record())
		}
	}
	if err := s.d.Client.Send(s.Context(), records); err != nil {
		s.Fatal(err)
	}
	answered := 0
	realtest.Until(s.T, "customers", func() bool {
		records, err := results.Next(s.Context())
		if err != nil {
			s.Fatal(err)
		}
		for _, record := range records {
			if !strings.Contains(string(record.Value), `"ok":true`) {
				s.Fatalf("%s", record.Value)
			}
		}
		answered += len(records)
		return answered == 2*customers
	})
}

// load sends checks at a steady rate. They bear no request id, so that each result names
// its record: what Kafka took twice, because its answer was lost, is two requests.
func (s *scene) load(duration time.Duration) error {
	const tick = 10 * time.Millisecond
	group, ctx := errgroup.WithContext(s.Context())
	group.SetLimit(64)
	ticker := time.NewTicker(tick)
	defer ticker.Stop()
	began, n := time.Now(), 0
	for now := began; now.Sub(began) < duration; now = <-ticker.C {
		due := int(now.Sub(began).Seconds() * rate)
		var records []kafka.Message
		for ; n < due; n++ {
			name := customerName(n * 7919 % customers)
			request := client.Request{
				Topic: s.d.Topics.Checks, CustomerID: name,
				Value: fmt.Appendf(nil, `{"customer_id":%q,"feature_id":"credits","required_balance":%d.%06d,"send_event":true}`, name, n%2, 1+n%999983),
			}
			if s.varied && n%3 == 1 {
				request.Headers = append(request.Headers, client.Header(wire.HeaderIdempotencyKey, strconv.Itoa(n)))
			}
			records = append(records, request.Record())
			if s.varied && n%3 == 2 {
				request := client.Request{
					Topic: s.d.Topics.Checks, CustomerID: strangerName(n),
					Value: fmt.Appendf(nil, `{"customer_id":%q,"feature_id":"credits","send_event":true}`, strangerName(n)),
				}
				records = append(records, request.Record())
			}
		}
		if len(records) > 0 {
			group.Go(func() error {
				err := s.d.Client.Send(ctx, records)
				s.sent.Add(int64(len(records)))
				return err
			})
		}
	}
	return group.Wait()
}

// collect reads results until it is stopped.
func (s *scene) collect(ctx context.Context) {
	for ctx.Err() == nil {
		s.collectOnce(ctx)
		select {
		case <-ctx.Done():
		case <-time.After(20 * time.Millisecond):
		}
	}
}

func (s *scene) collectOnce(ctx context.Context) {
	within, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	records, _ := s.results.Next(within) // while Kafka is away there is nothing to read
	for _, record := range records {
		s.result(record)
	}
	s.mutex.Lock()
	defer s.mutex.Unlock()
	s.answered = len(s.seen)
	for i := range s.marks {
		if m := &s.marks[i]; m.done.IsZero() && s.answered >= m.sent {
			m.done = time.Now()
		}
	}
}

func (s *scene) complain(format string, args ...any) {
	s.wrong = append(s.wrong, fmt.Sprintf(format, args...))
}

func (s *scene) result(record kafka.Message) {
	id := client.RequestID(record.Headers)
	if first, seen := s.seen[id]; seen {
		s.repeats++
		if s.once {
			s.complain("a repeat: %s", record.Value)
		}
		if first != string(record.Value) {
			s.complain("two answers to %s:\n%s\n%s", id, first, record.Value)
		}
		return
	}
	s.seen[id] = string(record.Value)
	offset, _ := strconv.ParseInt(id[strings.LastIndex(id, "/")+1:], 10, 64)
	customer := string(record.Key)
	if latest, seen := s.latest[customer]; seen && offset <= latest {
		s.complain("%s: the answer to offset %d came after that to %d", customer, offset, latest)
	}
	s.latest[customer] = offset
}

func (s *scene) units(number json.Number) int64 {
	n, err := balance.ParseUnits(string(number), precision)
	if err != nil {
		s.complain("%s: %v", number, err)
	}
	return n
}

// usage reads the usage events: what was deducted, by event id.
func (s *scene) usage() map[string]int64 {
	s.Helper()
	records, err := servertest.NewDrain(s.T, s.d.Broker, s.d.Topics.UsageEvents).Next(s.Context())
	if err != nil {
		s.Fatal(err)
	}
	byID := map[string]int64{}
	for _, record := range records {
		var e wire.EventRecord
		if err := json.Unmarshal(record.Value, &e); err != nil {
			s.Fatal(err)
		}
		value := s.units(e.Data.PoolValue)
		if first, seen := byID[e.ID]; seen && (first != value || s.once) {
			s.complain("two events %s: %d and %d", e.ID, first, value)
		}
		byID[e.ID] = value
	}
	return byID
}

// account is a customer's balance as the requests in their order make it.
type account struct {
	usage     int64
	nextReset *int64
}

// reconcile holds what was asked, the results, the events and Redis against each other:
// customer by customer, record by record.
func (s *scene) reconcile() (requests, lost int) {
	s.Helper()
	asked, err := servertest.NewDrain(s.T, s.d.Broker, s.d.Topics.Checks).Next(s.Context())
	if err != nil {
		s.Fatal(err)
	}
	events, accounts := s.usage(), map[string]*account{}
	for n := range customers {
		accounts[customerName(n)] = &account{}
	}
	for i := range asked {
		record := &asked[i]
		text, answered := s.seen[fmt.Sprintf("%s/%d/%d", record.Topic, record.Partition, record.Offset)]
		if !answered {
			lost++
			continue
		}
		var r wire.ResultRecord
		if err := json.Unmarshal([]byte(text), &r); err != nil {
			s.Fatal(err)
		}
		id := wire.EventID(record, 0)
		value, emitted := events[id]
		delete(events, id)
		if strings.HasPrefix(r.CustomerID, strangers) {
			if r.Code != balance.CustomerNotFound || emitted {
				s.complain("an event %t: %s", emitted, text)
			}
			continue
		}
		if r.Balance == nil || r.RequiredBalance == nil {
			s.complain("unexpected, and an event %t: %s", emitted, text)
			continue
		}
		switch {
		case r.Allowed != emitted:
			s.complain("allowed %t, but an event %t: %s", r.Allowed, emitted, text)
		case r.Allowed && value != s.units(*r.RequiredBalance):
			s.complain("the event says %d: %s", value, text)
		case !r.Allowed && r.Code != balance.InsufficientFunds:
			s.complain("unexpected: %s", text)
		case !r.Allowed && s.units(*r.RequiredBalance) <= s.units(r.Balance.Remaining):
			s.complain("denied without need: %s", text)
		}
		s.enter(accounts[r.CustomerID], value, r.Balance, r.EvaluatedAt)
	}
	for id := range events {
		s.complain("an event of no request: %s", id)
	}
	for name, a := range accounts {
		s.enter(a, 0, s.d.Command(s.T, name, `{"type":"customer.get","customer_id":%q}`, name).Balances["credits"], math.MaxInt64)
	}
	return len(asked), lost
}

// enter adds what was deducted to an account, and holds the balance that was shown
// against it. A balance resets at its moment, once, and never goes back.
func (s *scene) enter(a *account, deducted int64, shown *wire.PoolRecord, evaluatedMs int64) {
	if was, is := a.nextReset, shown.NextResetAt; was != nil && *is != *was {
		if *is < *was || evaluatedMs < *was {
			s.complain("the reset due at %d was applied at %d, the next at %d", *was, evaluatedMs, *is)
		}
		a.usage = 0
		s.resets++
	}
	a.nextReset = shown.NextResetAt
	a.usage += deducted
	usage, remaining := s.units(shown.Usage), s.units(shown.Remaining)
	if usage != a.usage || usage+remaining != s.units(json.Number(s.grant)) || remaining < 0 {
		s.complain("usage %d, remaining %d of %s, but %d was deducted", usage, remaining, s.grant, a.usage)
	}
}
