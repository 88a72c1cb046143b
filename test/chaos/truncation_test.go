//go:build chaos

package chaos

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"tollgate/internal/proctest"
	"tollgate/internal/realtest"
	"tollgate/internal/servertest"
)

const (
	cutPartition = 0
	cutRecords   = 300 // that are lost at the least, all of them decided
	// enough requests show that a partition goes on.
	enough = 200
)

// truncatedLog has Kafka lose the end of a partition of the checks topic, which workers have decided. The partition
// must stop, and only it, until workers are told to go on at its end. What came to it in between is not decided, as they
// were told. If it has grown again no worker sees it before it is longer than it was.
func truncatedLog(grown bool) func(t *testing.T) (*scene, func(time.Duration)) {
	return func(t *testing.T) (*scene, func(time.Duration)) {
		k, r := realtest.StartKafka(t, realtest.KafkaOptions{}), realtest.StartRedis(t)
		s := newScene(t, servertest.BrokerAt(t, k.Addr), "--redis-addrs", r.Addr)
		s.startWorkers(none(3)...)
		return s, func(duration time.Duration) {
			time.Sleep(duration / 4) // under load
			end, was := s.cut(k, grown)
			if grown {
				s.startBehind(was)
			}
			s.awaitBlocked()
			stopped := s.answeredByPartition()
			s.awaitAnswersOf(func(partition int) bool { return partition != cutPartition })
			if now := s.answeredByPartition(); now[cutPartition] != stopped[cutPartition] {
				t.Errorf("%d requests of the partition that stopped were answered", now[cutPartition]-stopped[cutPartition])
			}
			skippedTo := s.goOnAtTheEnd(end)
			s.excused = func(q question) bool {
				return q.life == 1 && q.Partition == cutPartition && q.Offset < skippedTo
			}
			s.afterwards = func() { s.nothingSkippedIsDecided(end, skippedTo) }
			s.mark()
			s.awaitAnswersOf(func(int) bool { return true })
		}
	}
}

// cut stops the load until all is answered and committed, and cuts the partition's log. It returns where that ends and
// where it ended.
func (s *scene) cut(k *realtest.Kafka, killWorkers bool) (end, was int64) {
	s.Helper()
	s.gate.Lock()
	defer s.gate.Unlock()
	all := s.questions()
	s.awaitAnswers(all)
	realtest.Until(s.T, "all is committed", func() bool {
		offsets, err := s.d.Broker.Committed(s.Context(), s.d.Group, s.d.Topics.Checks, []int{cutPartition})
		last, lastErr := s.d.Broker.LastOffset(s.Context(), s.d.Topics.Checks, cutPartition)
		was = offsets[cutPartition]
		return err == nil && lastErr == nil && was == last
	})
	if killWorkers {
		for _, w := range s.workers {
			w.Kill()
		}
	}
	end = k.Truncate(s.T, s.d.Topics.Checks, cutPartition, was-cutRecords)
	for _, q := range all {
		if q.Partition == cutPartition && q.Offset >= end {
			s.past = append(s.past, q.Message)
		}
	}
	s.Logf("the log of partition %d is cut from %d to %d", cutPartition, was, end)
	s.beginLife()
	return end, was
}

// startBehind starts the workers once the partition is longer than it was.
func (s *scene) startBehind(was int64) {
	s.Helper()
	realtest.Until(s.T, "the log has grown again", func() bool {
		last, err := s.d.Broker.LastOffset(s.Context(), s.d.Topics.Checks, cutPartition)
		return err == nil && last > was+enough
	})
	for i := range s.workers {
		s.startWorker(i)
	}
	for _, w := range s.workers {
		w.AwaitOutput(s.T, "joined the group")
	}
}

// awaitBlocked waits until one worker says that the partition waits, and no other does.
func (s *scene) awaitBlocked() {
	s.Helper()
	words := fmt.Sprintf("partitions: %s %d wait: ", s.d.Topics.Checks, cutPartition)
	realtest.Until(s.T, "the partition stops", func() bool {
		for _, w := range s.workers {
			if status, body := proctest.Get(s.T, "http://"+w.addr+"/readyz"); status == http.StatusServiceUnavailable && strings.Contains(string(body), words) {
				return true
			}
		}
		return false
	})
	realtest.Until(s.T, "one partition is blocked", func() bool {
		blocked := 0.0
		for _, w := range s.workers {
			blocked += proctest.Metric(s.T, w.addr, "tollgate_partitions_blocked")
		}
		return blocked == 1
	})
}

// awaitAnswersOf waits until further requests of partitions are answered.
func (s *scene) awaitAnswersOf(partitions func(int) bool) {
	s.Helper()
	before := s.answeredByPartition()
	realtest.Until(s.T, "further answers", func() bool {
		for partition, now := range s.answeredByPartition() {
			if partitions(partition) && now < before[partition]+enough {
				return false
			}
		}
		return true
	})
}

// goOnAtTheEnd starts the workers again as an operator does who has read what they said. It returns where they go on.
func (s *scene) goOnAtTheEnd(end int64) (last int64) {
	s.Helper()
	for i, w := range s.workers {
		s.stop(w.Process)
		s.flags[i] = append(s.flags[i], "--on-truncation=end")
	}
	s.gate.Lock() // so that the end is known
	defer s.gate.Unlock()
	last, err := s.d.Broker.LastOffset(s.Context(), s.d.Topics.Checks, cutPartition)
	if err != nil {
		s.Fatal(err)
	}
	if last == end {
		s.Error("no request came while the partition stood still")
	}
	s.mutex.Lock()
	s.lives[1].unanswerable = int(last - end)
	s.mutex.Unlock()
	s.startWorkers(s.flags...)
	realtest.Until(s.T, "the partition goes on", func() bool {
		offsets, err := s.d.Broker.Committed(s.Context(), s.d.Group, s.d.Topics.Checks, []int{cutPartition})
		return err == nil && offsets[cutPartition] == last
	})
	s.Logf("the workers go on at %d: %d requests are skipped", last, last-end)
	return last
}

// nothingSkippedIsDecided holds that workers kept to what they were told.
func (s *scene) nothingSkippedIsDecided(from, end int64) {
	for offset := from; offset < end; offset++ {
		q := question{life: 1}
		q.Topic, q.Partition, q.Offset = s.d.Topics.Checks, cutPartition, offset
		if a, decided := s.seen[q.key()]; decided {
			s.complain("it was to be skipped, and was decided: %s", a.text)
		}
	}
}
