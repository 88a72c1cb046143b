//go:build chaos

package chaos

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/segmentio/kafka-go"

	"tollgate/internal/balance"
	"tollgate/internal/client"
	"tollgate/internal/realtest"
	"tollgate/internal/servertest"
	"tollgate/internal/wire"
)

const (
	lockers      = 1500 // customers: so many that most locks are their customer's last step
	locksEvery   = 8 * time.Millisecond
	lockGrant    = 1_000_000
	settleAfter  = 60 // locks later; the lock's answer may not be there yet
	lockPatience = 5 * time.Second
	// lockCalm is the time behind a fault within which locks may expire late: workers come back.
	lockCalm = 12 * time.Second
)

// lockFaults are those of faults that locks are held under, the first of them also in the short form.
var lockFaults = []string{
	"one of three workers killed, again and again", "Redis killed, and restarted from its append-only file", "Kafka killed and restarted",
	"nothing", "a worker frozen for longer than its session, then thawed", "SCRIPT FLUSH, five times", "any command inside a script refused, at random",
}

const lockFaultsInShort = 3

// TestLocksUnderFaults makes locks under faults, and settles most of them, each twice. What a customer's usage is in the end must
// be what its usage events say, each lock must have had one end, and none may be held for longer than it may.
func TestLocksUnderFaults(t *testing.T) {
	shared.kafka = realtest.StartKafka(t, realtest.KafkaOptions{})
	duration := 24 * time.Second
	if testing.Short() {
		duration = 10 * time.Second
	}
	for i, name := range lockFaults {
		f := faults[slices.IndexFunc(faults, func(f fault) bool { return f.name == name })]
		for j, delivery := range []string{"at least once", "exactly once"} {
			if testing.Short() && (i%2 == j || i >= lockFaultsInShort) {
				continue
			}
			t.Run(f.name+"/"+delivery, func(t *testing.T) {
				shared.exactlyOnce = delivery == "exactly once"
				s, breaks := f.play(t)
				l := &locking{scene: s}
				l.provision()
				l.run(breaks, duration)
				l.reconcile(f.name, delivery)
			})
		}
	}
}

// locking is a scene whose load is locks.
type locking struct {
	*scene
	made      int       // locks
	calm      time.Time // when the fault has ended, and all of it is over
	results   map[string][]byte
	lateLocks int
}

func lockerName(n int) string { return fmt.Sprintf("locker-%d", n%lockers) }

func (l *locking) request(topic, customer, id, format string, args ...any) kafka.Message {
	request := client.Request{Topic: topic, CustomerID: customer, Value: fmt.Appendf(nil, format, args...), Headers: []kafka.Header{client.Header(wire.HeaderRequestID, id)}}
	return request.Record()
}

func (l *locking) sendAll(records ...kafka.Message) {
	if err := l.d.Client.Send(l.Context(), records); err != nil {
		l.Error(err)
	}
}

func (l *locking) provision() {
	var records []kafka.Message
	for n := range lockers {
		name := lockerName(n)
		records = append(records,
			l.request(l.d.Topics.Commands, name, "put-"+name, `{"type":"customer.put","customer_id":%q}`, name),
			l.request(l.d.Topics.Commands, name, "grant-"+name, `{"type":"balance.grant","customer_id":%q,"feature_id":"images","amount":%d,"balance_id":"gift"}`, name, lockGrant))
	}
	results := servertest.NewDrain(l.T, l.d.Broker, l.d.Topics.CommandResults)
	l.sendAll(records...)
	answered := map[string]bool{} // there may be repeats
	realtest.Until(l.T, "customers that make locks", func() bool {
		records, err := results.Next(l.Context())
		if err != nil {
			l.Fatal(err)
		}
		for _, record := range records {
			answered[client.RequestID(record.Headers)] = true
		}
		return len(answered) == 2*lockers
	})
}

// amountOf is what a lock holds, and expiryOf how long.
func amountOf(n int) int           { return 3 + n%7 }
func expiryOf(n int) time.Duration { return time.Duration(2000+n%3000) * time.Millisecond }
func lockName(n int) string        { return fmt.Sprintf("lock-%d", n) }
func valueOf(n int) (value int) {
	return map[int]int{1: amountOf(n), 2: amountOf(n) - 2, 3: amountOf(n) + 4}[n%5]
}
func isConfirmed(n int) bool       { return n%5 >= 1 && n%5 <= 3 }
func finalizeName(n, k int) string { return fmt.Sprintf("finalize-%d-%d", n, k) }

// finalize settles a lock; every fifth is left to expire.
func (l *locking) finalize(n, k int) []kafka.Message {
	name, action := lockerName(n), `"action":"release"`
	switch {
	case n%5 == 0:
		return nil
	case isConfirmed(n):
		action = fmt.Sprintf(`"action":"confirm","override_value":%d`, valueOf(n))
	}
	return []kafka.Message{l.request(l.d.Topics.Commands, name, finalizeName(n, k), `{"type":"lock.finalize","customer_id":%q,"lock_id":%q,%s}`, name, lockName(n), action)}
}

// run makes locks until the fault is over and calm has returned.
func (l *locking) run(breaks func(time.Duration), duration time.Duration) {
	broken := make(chan struct{})
	var breaking sync.WaitGroup
	breaking.Go(func() {
		defer close(broken)
		breaks(duration)
	})
	ticker := time.NewTicker(locksEvery)
	defer ticker.Stop()
	for began := time.Now(); l.calm.IsZero() || time.Now().Before(l.calm.Add(lockPatience)); <-ticker.C {
		n := l.made
		l.made++
		name := lockerName(n)
		records := []kafka.Message{l.request(l.d.Topics.Checks, name, lockName(n),
			`{"customer_id":%q,"feature_id":"images","required_balance":%d,"lock":{"enabled":true,"lock_id":%q,"expires_at":%d,"overage_behavior":"cap"}}`,
			name, amountOf(n), lockName(n), time.Now().Add(expiryOf(n)).UnixMilli())}
		for k, back := range []int{settleAfter, 2 * settleAfter} {
			if n >= back {
				records = append(records, l.finalize(n-back, k)...)
			}
		}
		l.sendAll(records...)
		if l.calm.IsZero() && isClosed(broken) && time.Since(began) > duration {
			l.calm = time.Now().Add(lockCalm)
		}
	}
	breaking.Wait()
}

// read waits until all requests have a result, and every lock an end.
func (l *locking) read() {
	l.results = map[string][]byte{}
	drains := []*servertest.Drain{servertest.NewDrain(l.T, l.d.Broker, l.d.Topics.CheckResults), servertest.NewDrain(l.T, l.d.Broker, l.d.Topics.CommandResults)}
	for deadline := time.Now().Add(drainTimeout); ; time.Sleep(100 * time.Millisecond) {
		for _, drain := range drains {
			records, err := drain.Next(l.Context())
			if err != nil {
				l.Fatal(err)
			}
			for _, record := range records {
				l.note(record)
			}
		}
		missing := 0
		for n := range l.made {
			if l.results[lockName(n)] == nil {
				missing++
			}
		}
		if missing == 0 {
			return
		}
		if time.Now().After(deadline) {
			l.Fatalf("%d locks have no answer", missing)
		}
	}
}

// note notes a result, and how late a lock has expired.
func (l *locking) note(record kafka.Message) {
	id := client.RequestID(record.Headers)
	if first := l.results[id]; first != nil {
		l.repeats++
		if string(first) != string(record.Value) || l.once {
			l.complain("two answers to %s:\n%s\n%s", id, first, record.Value)
		}
		return
	}
	l.results[id] = record.Value
	var expired struct {
		Type        string           `json:"type"`
		EvaluatedAt int64            `json:"evaluated_at"`
		Lock        *wire.LockRecord `json:"lock"`
	}
	if err := json.Unmarshal(record.Value, &expired); err != nil {
		l.Fatal(err)
	}
	if expired.Type != "lock.expire" || expired.Lock == nil || expired.Lock.State != balance.LockHasExpired {
		return
	}
	if late := expired.EvaluatedAt - expired.Lock.ExpiresAt; late > lockPatience.Milliseconds() && expired.Lock.ExpiresAt > l.calm.UnixMilli() {
		l.lateLocks++
		l.complain("a lock expired %d ms late: %s", late, record.Value)
	}
}

// reconcile holds usage, events and what became of the locks against each other.
func (l *locking) reconcile(fault, delivery string) {
	l.Helper()
	l.read()
	events, byLock := map[string]int64{}, map[string]int64{}
	usage := map[string]int64{}
	records, err := servertest.NewDrain(l.T, l.d.Broker, l.d.Topics.UsageEvents).Next(l.Context())
	if err != nil {
		l.Fatal(err)
	}
	for _, record := range records {
		var e wire.EventRecord
		if err := json.Unmarshal(record.Value, &e); err != nil {
			l.Fatal(err)
		}
		value := l.units(e.Data.Draws[0].Value)
		if first, seen := events[e.ID]; seen {
			if first != value || l.once {
				l.complain("two events %s: %d and %d", e.ID, first, value)
			}
			continue
		}
		if _, twice := byLock[e.Data.LockID]; twice || e.Data.LockID == "" {
			l.complain("an event of no lock, or the second of one: %s", record.Value)
		}
		events[e.ID], byLock[e.Data.LockID] = value, value
		usage[e.Subject] += value
	}
	ends := map[string]int{}
	for n := range l.made {
		ends[l.endOf(n, byLock)]++
		delete(byLock, lockName(n))
	}
	for id := range byLock {
		l.complain("an event of a lock that was not made: %s", id)
	}
	for n := range min(lockers, l.made) {
		l.await(lockerName(n), usage[lockerName(n)])
	}
	if len(l.wrong) > 0 {
		l.Errorf("%d wrong: %.2000s", len(l.wrong), strings.Join(l.wrong, "\n"))
	}
	report = append(report, fmt.Sprintf("| locks: %s | %s | %d | %d | 0 | %d | %d late |", fault, delivery, l.made, l.repeats, len(l.wrong), l.lateLocks))
	l.Logf("%s: %v", report[len(report)-1], ends)
}

// endOf is what became of a lock: it must agree with its usage event, or that there is none.
func (l *locking) endOf(n int, byLock map[string]int64) string {
	var held wire.ResultRecord
	if err := json.Unmarshal(l.results[lockName(n)], &held); err != nil {
		l.Fatal(err)
	}
	value, emitted := byLock[lockName(n)]
	// What was asked for during a long outage had expired when it was decided.
	if held.Lock == nil {
		if emitted || held.Code != balance.InvalidRequest {
			l.complain("not made, and an event %t: %s", emitted, l.results[lockName(n)])
		}
		return "too late"
	}
	end := "expired"
	for k := range 2 {
		text := l.results[finalizeName(n, k)]
		var settled struct {
			OK    bool              `json:"ok"`
			Error *wire.ErrorRecord `json:"error"`
			Value json.Number       `json:"value"`
		}
		if text == nil {
			continue
		}
		if err := json.Unmarshal(text, &settled); err != nil {
			l.Fatal(err)
		}
		switch {
		case settled.OK:
			end = map[bool]string{true: "confirmed", false: "released"}[isConfirmed(n)]
		case settled.Error.Code != balance.LockExpired && settled.Error.Code != balance.LockNotFound:
			l.complain("unexpected: %s", text)
		}
	}
	want := int64(0)
	if end == "confirmed" {
		want = int64(valueOf(n)) * unit
	}
	if emitted != (end == "confirmed") || value != want {
		l.complain("%s, but the event says %d: %s", end, value, l.results[lockName(n)])
	}
	return end
}

// await waits until nothing of a customer is held, and holds its usage against what the events say.
func (l *locking) await(name string, usage int64) {
	l.Helper()
	for deadline := time.Now().Add(2 * lockPatience); ; time.Sleep(200 * time.Millisecond) {
		got := l.d.Command(l.T, name, `{"type":"customer.get","customer_id":%q}`, name).Balances["images"]
		if got.Held == "0" || time.Now().After(deadline) {
			if l.units(got.Usage) != usage || got.Held != "0" || l.units(got.Remaining)+usage != lockGrant*unit {
				l.complain("%s: usage %s, held %s, remaining %s; the events say %d millionths", name, got.Usage, got.Held, got.Remaining, usage)
			}
			return
		}
	}
}
