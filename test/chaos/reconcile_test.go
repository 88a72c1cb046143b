//go:build chaos

package chaos

import (
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/segmentio/kafka-go"

	"tollgate/internal/balance"
	"tollgate/internal/realtest"
	"tollgate/internal/servertest"
	"tollgate/internal/wire"
)

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
		value := s.units(e.Data.Draws[0].Value)
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

// question is a request as it stands in Kafka, or stood.
type question struct {
	kafka.Message
	life   int
	number int
}

// key is that of its answer.
func (q *question) key() string {
	return fmt.Sprintf("%d %s/%d/%d", q.life, q.Topic, q.Partition, q.Offset)
}

// questions reads the requests, those of each customer in their order.
func (s *scene) questions() (all []question) {
	s.Helper()
	var asked []kafka.Message
	realtest.Until(s.T, "the requests are read", func() bool { // leaders may have moved
		var err error
		asked, err = servertest.NewDrain(s.T, s.d.Broker, s.d.Topics.Checks).Next(s.Context())
		return err == nil
	})
	s.mutex.Lock()
	defer s.mutex.Unlock()
	for _, record := range slices.Concat(asked, s.past) {
		q := question{Message: record, number: s.numberOf(record.Value)}
		q.life = s.lifeOf(q.number)
		all = append(all, q)
	}
	// What is past was written after the records before it that are left.
	slices.SortStableFunc(all, func(a, b question) int { return a.life - b.life })
	return all
}

// isExcused says that a request needs no answer.
func (s *scene) isExcused(q *question) bool { return s.excused != nil && s.excused(*q) }

// awaitAnswers waits until every request has a result that needs one.
func (s *scene) awaitAnswers(all []question) {
	s.Helper()
	for deadline := time.Now().Add(drainTimeout); ; time.Sleep(50 * time.Millisecond) {
		s.mutex.Lock()
		all = slices.DeleteFunc(slices.Clone(all), func(q question) bool {
			_, answered := s.seen[q.key()]
			return answered || s.isExcused(&q)
		})
		s.mutex.Unlock()
		if len(all) == 0 {
			return
		}
		if time.Now().After(deadline) {
			s.Errorf("%d requests were not answered, the first of them %s", len(all), all[0].key())
			return
		}
	}
}

// reconcile holds what was asked, the results, the events and Redis against each other:
// customer by customer, record by record.
func (s *scene) reconcile(asked []question) (lost int) {
	s.Helper()
	events, accounts := s.usage(), map[string]*account{}
	for n := range customers {
		accounts[customerName(n)] = &account{}
	}
	for i := range asked {
		q := &asked[i]
		a, answered := s.seen[q.key()]
		if !answered {
			if !s.isExcused(q) {
				lost++
			}
			continue
		}
		if s.waited != nil {
			s.waited(*q, a)
		}
		text := a.text
		var r wire.ResultRecord
		if err := json.Unmarshal([]byte(text), &r); err != nil {
			s.Fatal(err)
		}
		id := wire.EventID(&q.Message, 0)
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
		case s.numberOf([]byte(text)) != q.number:
			s.complain("the answer to %s is that to another request: %s", q.Value, text)
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
	return lost
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
