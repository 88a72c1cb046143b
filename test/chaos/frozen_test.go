//go:build chaos

package chaos

import (
	"strings"
	"syscall"
	"testing"
	"time"

	"tollgate/internal/proctest"
	"tollgate/internal/realtest"
)

// frozenUnderBacklog freezes one of two workers in the middle of a backlog for longer than its session. When it is
// thawed, the other has its partitions and is far beyond what the frozen one had in hand.
func frozenUnderBacklog(t *testing.T) (*scene, func(time.Duration)) {
	r := realtest.StartRedis(t)
	s := sharedScene(t, "--redis-addrs", r.Addr)
	session, beyond := 6*time.Second, 10*time.Second
	s.backlog = 300_000
	if testing.Short() {
		session, beyond = 2*time.Second, 4*time.Second
		s.backlog = 30_000
	}
	flags := []string{"--kafka-session-timeout", session.String()}
	s.startWorkers(flags, flags)
	return s, func(time.Duration) {
		r.Freeze(t) // so that both begin with all of the backlog
		<-s.loaded
		r.Thaw(t)
		frozen := s.workers[0]
		realtest.Until(t, "the worker is in the middle of its work", func() bool {
			return proctest.Metric(t, frozen.addr, "tollgate_checks_total") > float64(s.backlog)/20 && proctest.Metric(t, frozen.addr, "tollgate_in_flight") > 0
		})
		frozen.Signal(t, syscall.SIGSTOP)
		said, before := len(frozen.Output()), s.answeredByPartition()
		time.Sleep(session + beyond)
		now, goneOn := s.answeredByPartition(), 0
		for partition, end := range s.endsOf(s.d.Topics.Checks) {
			if now[partition] > before[partition]+mostInHand {
				goneOn++
			} else if now[partition] < int(end) {
				t.Errorf("%d of partition %d were answered, and %d when a worker was frozen: nobody goes on", now[partition], partition, before[partition])
			}
		}
		if goneOn < proctest.Partitions/len(s.workers) {
			t.Error("the other worker is not beyond what the frozen one has in hand")
		}
		thawed := s.endsOf(s.d.Topics.CheckResults)
		thawedAt := time.Now()
		frozen.Signal(t, syscall.SIGCONT)
		s.mark()
		realtest.Until(t, "the worker learns that it is no member", func() bool {
			return strings.Contains(frozen.Output()[said:], "the generation is over")
		})
		learned := s.endsOf(s.d.Topics.CheckResults)
		s.afterwards = func() { s.lateResults(thawedAt, thawed, learned) }
	}
}

// mostInHand is how many records of a partition a worker has decided or is deciding at the most: three batches
// of --batch-max (500).
const mostInHand = 3 * batchMax

const batchMax = 500

// lateResults counts what the thawed worker published behind results of later requests: repeats, since the other
// worker had published the same. (As first results they would be wrong, whoever published them.)
//
// With transactions there is none. Without, a worker may be frozen after it has confirmed its membership and made a
// request of what it has, and before all of that is written. That is written when it is thawed, and nothing can call it
// back. So there may be one batch of each of its partitions, and its records have the time at which the request was
// made, before the freeze. What was made after the thaw was made without confirming, and there must be none.
func (s *scene) lateResults(thawedAt time.Time, thawed, learned map[int]int64) {
	s.Helper()
	underWay, made, afterLoss := 0, 0, 0
	for _, r := range s.regressions {
		switch {
		case r.offset < thawed[r.partition]:
		case r.at.Before(thawedAt.Truncate(time.Millisecond)):
			underWay++
		default:
			made++
		}
		if r.offset >= learned[r.partition] {
			afterLoss++
		}
	}
	allowed := 0
	if !s.once {
		allowed = proctest.Partitions / len(s.workers) * batchMax
	}
	s.Logf("late results: %d that were under way, %d made after the thaw, of all %d after the worker had learned of its loss; repeats in all: %d",
		underWay, made, afterLoss, s.repeats)
	if underWay > allowed || made > 0 || afterLoss > 0 {
		s.Errorf("%d late results were under way, %d may be; %d were made after the thaw; %d came after the worker had learned of its loss",
			underWay, allowed, made, afterLoss)
	}
}

// answeredByPartition is how many requests of each partition have a result.
func (s *scene) answeredByPartition() [proctest.Partitions]int {
	s.collectOnce(s.Context())
	s.mutex.Lock()
	defer s.mutex.Unlock()
	return s.byPartition
}

// endsOf are where the partitions of a topic end.
func (s *scene) endsOf(topic string) map[int]int64 {
	s.Helper()
	ends := map[int]int64{}
	for id := range proctest.Partitions {
		end, err := s.d.Broker.LastOffset(s.Context(), topic, id)
		if err != nil {
			s.Fatal(err)
		}
		ends[id] = end
	}
	return ends
}
