//go:build chaos

package chaos

import (
	"context"
	"encoding/json"
	"fmt"
	"path"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/segmentio/kafka-go"
	"github.com/tidwall/gjson"
	"golang.org/x/sync/errgroup"

	"tollgate/internal/client"
	"tollgate/internal/proctest"
	"tollgate/internal/realtest"
	"tollgate/internal/servertest"
	"tollgate/internal/wire"
)

const (
	rate      = 2500 // checks per second; the promise is for at least 2,000
	customers = 1000
	// What is granted for each request, of which the average asks for 1. Some will be denied.
	grantPerRequest = 0.9
	precision       = 6 // of credits
	drainTimeout    = 3 * time.Minute
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
	backlog int    // requests that are sent as fast as they can be, in the place of a steady load
	replies string // the topic that every third request has its result sent to, "" for none does
	workers []*worker
	flags   [][]string // of each worker, beside the common ones

	// gate is held for reading by whoever sends, so that who locks it stops the load.
	gate   sync.RWMutex
	next   int           // number of the next request; the gate guards it
	loaded chan struct{} // is closed once all is sent
	sent   atomic.Int64

	reading sync.Mutex // one reads results at a time
	results []*servertest.Drain

	mutex       sync.Mutex        // guards what follows
	seen        map[string]answer // results by request, as they came first
	repeats     int               // of results
	once        bool              // there must be none
	regressions []regression
	wrong       []string
	latest      map[string]int64         // offset of the latest request of a customer that was answered first
	byPartition [proctest.Partitions]int // answers, by the partition of their request
	lives       []life                   // of the checks topic, one at the least
	marks       []mark

	past      []kafka.Message            // requests that Kafka had, and has no longer
	excused   func(q question) bool      // says which requests need no answer; may be nil
	collected func()                     // is done before results are held against requests; may be nil
	waited    func(q question, a answer) // is told of each answer; may be nil

	afterwards func() // is done at the end, if it is not nil
}

// worker is one of a scene's.
type worker struct {
	*proctest.Process
	addr string // of its metrics
}

// answer is what was seen of a result.
type answer struct {
	text  string
	topic string
	at    time.Time // when it was published
}

// regression is a repeat of a result that came after results of later requests of the same customer.
type regression struct {
	partition int       // of the results
	offset    int64     // in it
	at        time.Time // when it was made
}

// startWorkers starts workers and waits until they are ready.
func (s *scene) startWorkers(flags ...[]string) {
	s.Helper()
	s.flags = flags
	s.workers = make([]*worker, len(flags))
	for i := range flags {
		s.startWorker(i)
		s.workers[i].AwaitReady(s.T, s.workers[i].addr)
	}
}

// startWorker returns before the worker is ready.
func (s *scene) startWorker(i int) {
	s.Helper()
	process, addr := s.d.Start(s.T, s.flags[i]...)
	s.workers[i] = &worker{process, addr}
}

// stop ends a worker as an operator does.
func (s *scene) stop(p *proctest.Process) {
	s.Helper()
	if code := p.Stop(s.T); code != 0 {
		s.Errorf("exit code %d at SIGTERM", code)
	}
}

// restart kills a worker and starts another in its place.
func (s *scene) restart(i int) {
	s.Helper()
	s.workers[i].Kill()
	s.startWorker(i)
}

// provision makes the customers, each with a grant of credits.
func (s *scene) provision(duration time.Duration) {
	s.Helper()
	requests := max(duration.Seconds()*rate, float64(s.backlog))
	s.grant = strconv.Itoa(int(grantPerRequest * requests / customers))
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
	answered := map[string]bool{} // there may be repeats
	realtest.Until(s.T, "customers", func() bool {
		records, err := results.Next(s.Context())
		if err != nil {
			s.Fatal(err)
		}
		for _, record := range records {
			if !strings.Contains(string(record.Value), `"ok":true`) {
				s.Fatalf("%s", record.Value)
			}
			answered[client.RequestID(record.Headers)] = true
		}
		return len(answered) == 2*customers
	})
}

// load sends checks at a steady rate, for so long and until what breaks has ended; time in which the gate is closed
// does not count. They bear no request id, so that each result names its record: what Kafka took twice, because its
// answer was lost, is two requests.
func (s *scene) load(duration time.Duration, broken <-chan struct{}) error {
	defer close(s.loaded)
	if s.backlog > 0 {
		return s.loadAtOnce()
	}
	const tick = 10 * time.Millisecond
	group, ctx := errgroup.WithContext(s.Context())
	group.SetLimit(64)
	ticker := time.NewTicker(tick)
	defer ticker.Stop()
	for began := time.Now(); ctx.Err() == nil; <-ticker.C {
		stood := time.Now()
		s.gate.RLock()
		began = began.Add(time.Since(stood))
		if time.Since(began) >= duration && isClosed(broken) {
			s.gate.RUnlock()
			break
		}
		records := s.requests(int(time.Since(began).Seconds() * rate))
		if len(records) == 0 {
			s.gate.RUnlock()
			continue
		}
		group.Go(func() error {
			defer s.gate.RUnlock()
			return s.send(ctx, records)
		})
	}
	return group.Wait()
}

// loadAtOnce sends the backlog.
func (s *scene) loadAtOnce() error {
	const together, senders = 2000, 4
	group, ctx := errgroup.WithContext(s.Context())
	group.SetLimit(senders)
	for s.next < s.backlog && ctx.Err() == nil {
		records := s.requests(min(s.next+together, s.backlog))
		group.Go(func() error { return s.send(ctx, records) })
	}
	return group.Wait()
}

func (s *scene) send(ctx context.Context, records []kafka.Message) error {
	err := s.d.Client.Send(ctx, records)
	s.sent.Add(int64(len(records)))
	return err
}

func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// requests makes the next requests, up to a number.
func (s *scene) requests(end int) (records []kafka.Message) {
	for ; s.next < end; s.next++ {
		n := s.next
		name := customerName(n * 7919 % customers)
		request := client.Request{
			Topic: s.d.Topics.Checks, CustomerID: name,
			Value: fmt.Appendf(nil, `{"customer_id":%q,"feature_id":"credits","required_balance":%d.%06d,"send_event":true}`, name, n%2, 1+n%mostNumbers),
		}
		if s.varied && n%3 == 1 {
			request.Headers = append(request.Headers, client.Header(wire.HeaderIdempotencyKey, strconv.Itoa(n)))
		}
		if s.replies != "" && n%3 == 0 {
			request.Headers = append(request.Headers, client.Header(wire.HeaderReplyTopic, s.replies))
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
	return records
}

// mostNumbers is how many requests differ by what they ask for.
const mostNumbers = 999_983

// numberOf is the number of a request, by the JSON of itself or of its result. Those of strangers have none.
func (s *scene) numberOf(text []byte) int {
	required := gjson.GetBytes(text, "required_balance").Raw
	if required == "" {
		return 0
	}
	return int(s.units(json.Number(required))%unit) - 1
}

const unit = 1_000_000 // 10 to the precision

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
	s.reading.Lock()
	defer s.reading.Unlock()
	for _, drain := range s.results {
		records, _ := drain.Next(within) // while Kafka is away there is nothing to read
		s.mutex.Lock()
		for i := range records {
			s.result(&records[i])
		}
		s.mutex.Unlock()
	}
	s.mutex.Lock()
	defer s.mutex.Unlock()
	for i := range s.marks {
		if m := &s.marks[i]; m.done.IsZero() && s.lives[m.life].answered >= m.sent {
			m.done = time.Now()
		}
	}
}

// complain notes what is wrong. The mutex is held, or nobody collects any more.
func (s *scene) complain(format string, args ...any) {
	s.wrong = append(s.wrong, fmt.Sprintf(format, args...))
}

const lifeShift = 40 // bits above offsets

// result notes a result. The mutex is held.
func (s *scene) result(record *kafka.Message) {
	place := client.RequestID(record.Headers)
	life := 0
	if len(s.lives) > 1 {
		life = s.lifeOf(s.numberOf(record.Value))
	}
	request, customer := fmt.Sprint(life, " ", place), string(record.Key)
	offset, _ := strconv.ParseInt(path.Base(place), 10, 64)
	order := int64(life)<<lifeShift + offset
	if s.replies != "" {
		// What goes to another topic, or was to go there, has an order of its own.
		customer += fmt.Sprint(" replies ", s.numberOf(record.Value)%3 == 0)
	}
	if first, seen := s.seen[request]; seen {
		s.repeats++
		if s.once {
			s.complain("a repeat: %s", record.Value)
		}
		if first.text != string(record.Value) {
			s.complain("two answers to %s:\n%s\n%s", request, first.text, record.Value)
		}
		if order < s.latest[customer] {
			s.regressions = append(s.regressions, regression{record.Partition, record.Offset, record.Time})
		}
		return
	}
	s.seen[request] = answer{string(record.Value), record.Topic, record.Time}
	s.lives[life].answered++
	partition, _ := strconv.Atoi(path.Base(path.Dir(place)))
	s.byPartition[partition]++
	if latest, seen := s.latest[customer]; seen && order <= latest {
		s.complain("%s: the answer to %s came after that to offset %d", customer, request, latest%(1<<lifeShift))
	}
	s.latest[customer] = order
}
