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
		frozen.Signal(t, syscall.SIGCONT)
		s.mark()
		realtest.Until(t, "the worker learns that it is no member", func() bool {
			return strings.Contains(frozen.Output()[said:], "the generation is over")
		})
		learned := s.endsOf(s.d.Topics.CheckResults)
		s.afterwards = func() { s.lateResults(thawed, learned) }
	}
}

// mostInHand is how many records of a partition a worker has decided or is deciding at the most: three batches
// of --batch-max (500).
const mostInHand = 3 * batchMax

const batchMax = 500

// lateResults counts what the thawed worker published behind results of later requests: repeats, since the other
// worker had published the same. (As first results they would be wrong, whoever published them.)
//
// With transactions there is none. Without, a worker that confirmed its membership may be frozen before it has
// written the request that follows. That is written when it is thawed, and nothing can call it back; so there
// may be one batch of each of its partitions. Once it has learned of its loss there must be none.
func (s *scene) lateResults(thawed, learned map[int]int64) {
	s.Helper()
	late, afterLoss := 0, 0
	for _, r := range s.regressions {
		if r.offset >= thawed[r.partition] {
			late++
		}
		if r.offset >= learned[r.partition] {
			afterLoss++
		}
	}
	allowed := 0
	if !s.once {
		allowed = proctest.Partitions / len(s.workers) * batchMax
	}
	s.Logf("late results: %d, of them after the worker had learned of its loss: %d; repeats in all: %d", late, afterLoss, s.repeats)
	if late > allowed || afterLoss > 0 {
		s.Errorf("%d late results, %d may be; %d after the worker had learned of its loss", late, allowed, afterLoss)
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
