//go:build chaos

package chaos

import (
	"errors"
	"io"
	"maps"
	"syscall"
	"testing"
	"time"

	"github.com/segmentio/kafka-go"
	"github.com/segmentio/kafka-go/protocol"

	"tollgate/internal/client"
	"tollgate/internal/realtest"
	"tollgate/internal/servertest"
)

// backlogTime is for how long workers are stopped in their tracks so that there is something in the topic when it
// goes. Their sessions are longer.
const backlogTime = 500 * time.Millisecond

var longSession = []string{"--kafka-session-timeout", "10s"}

// topicsMadeAgain deletes the checks topic under load and makes it again, and then the commands topic, without which
// checks must go on. Nobody tells the workers.
func topicsMadeAgain(t *testing.T) (*scene, func(time.Duration)) {
	r := realtest.StartRedis(t)
	s := sharedScene(t, "--redis-addrs", r.Addr)
	s.startWorkers(longSession, longSession, longSession)
	// A request that nobody had answered when the topic went is gone with it.
	s.excused = func(q question) bool { return q.life < len(s.lives)-1 }
	return s, func(duration time.Duration) {
		time.Sleep(duration / 4)
		for range 2 {
			s.makeChecksAgain()
			s.mark()
			s.awaitAnswersOf(func(int) bool { return true })
		}
		withoutCommands := s.next // about
		s.delete(s.d.Topics.Commands)
		time.Sleep(duration / 4)
		s.awaitAnswersOf(func(int) bool { return true })
		servertest.CreateTopics(t, s.d.Broker, len(s.byPartition), s.d.Topics.Commands)
		name := customerName(0)
		s.d.Command(t, name, `{"type":"customer.get","customer_id":%q}`, name)
		slowest := time.Duration(0)
		s.waited = func(q question, a answer) {
			if q.number >= withoutCommands {
				slowest = max(slowest, a.at.Sub(q.Time))
			}
		}
		s.afterwards = func() {
			t.Logf("the slowest check from the deletion of the commands topic on took %.1f s", slowest.Seconds())
			if slowest > mostWait {
				t.Errorf("a check waited for %v for the commands topic", slowest)
			}
		}
	}
}

// mostWait is how long a request may wait for what others have to do with: a rebalance that tells all members that
// the topics have changed, or the few seconds in which a reply topic might be one that is being made.
const mostWait = 8 * time.Second

// makeChecksAgain deletes the checks topic while there are requests in it that nobody has answered.
func (s *scene) makeChecksAgain() {
	s.Helper()
	s.signal(syscall.SIGSTOP)
	time.Sleep(backlogTime)
	s.gate.Lock()
	defer s.gate.Unlock()
	all := s.questions()
	s.past = nil
	for _, q := range all {
		s.past = append(s.past, q.Message)
	}
	s.signal(syscall.SIGCONT)
	s.delete(s.d.Topics.Checks)
	servertest.CreateTopics(s.T, s.d.Broker, len(s.byPartition), s.d.Topics.Checks)
	s.beginLife()
}

func (s *scene) signal(signal syscall.Signal) {
	s.Helper()
	for _, w := range s.workers {
		w.Signal(s.T, signal)
	}
}

// delete deletes a topic and waits until the broker has none of that name.
func (s *scene) delete(topic string) {
	s.Helper()
	response, err := s.d.Broker.Client.DeleteTopics(s.Context(), &kafka.DeleteTopicsRequest{Topics: []string{topic}})
	if err == nil {
		err = response.Errors[topic]
	}
	if err != nil {
		s.Fatal(err)
	}
	realtest.Until(s.T, "the topic is gone", func() bool {
		missing, err := s.d.Broker.MissingTopics(s.Context(), []string{topic})
		return err == nil && len(missing) == 1
	})
}

// replyTopicDeleted deletes a topic that every third request has its result sent to. These must come on the default
// topic, and others must hardly wait.
func replyTopicDeleted(t *testing.T) (*scene, func(time.Duration)) {
	r := realtest.StartRedis(t)
	s := sharedScene(t, "--redis-addrs", r.Addr)
	s.replies = servertest.Unique("replies")
	servertest.CreateTopics(t, s.d.Broker, len(s.byPartition), s.replies)
	s.results = append(s.results, servertest.NewDrain(t, s.d.Broker, s.replies))
	flags := append([]string{"--reply-topics", s.replies}, longSession...)
	s.startWorkers(flags, flags, flags)
	return s, func(duration time.Duration) {
		time.Sleep(duration / 4)
		unread := s.deleteReplies()
		thawed := time.Now()
		s.mark()
		time.Sleep(duration / 4)
		s.awaitAnswersOf(func(int) bool { return true })
		inDefault := 0
		var named, others time.Duration
		s.waited = func(q question, a answer) {
			wait := a.at.Sub(later(q.Time, thawed))
			if q.number%3 != 0 {
				others = max(others, wait)
				return
			}
			named = max(named, wait)
			if a.topic == s.d.Topics.CheckResults {
				inDefault++
			}
		}
		s.afterwards = func() {
			t.Logf("%d results were in the topic alone, %d came on the default topic; the slowest request that named the topic took %.1f s, the slowest other %.1f s",
				*unread, inDefault, named.Seconds(), others.Seconds())
			if max(named, others) > mostWait {
				t.Errorf("requests waited for %v", max(named, others))
			}
			if inDefault < enough {
				t.Errorf("%d results went to the default topic", inDefault)
			}
		}
	}
}

// deleteReplies reads the reply topic to its end and deletes it.
//
// With transactions a result may have been written to it, and be part of one that is not committed. It is lost with
// the topic if that is committed, and comes again if not. unread says how many were in the topic alone, once all others
// are there.
func (s *scene) deleteReplies() (unread *int) {
	s.Helper()
	s.signal(syscall.SIGSTOP)
	s.awaitQuiet(s.replies)
	written := s.uncommitted(s.replies)
	s.delete(s.replies)
	s.signal(syscall.SIGCONT)
	s.reading.Lock()
	s.results = s.results[:1]
	s.reading.Unlock()
	s.excused = func(q question) bool {
		_, there := written[q.key()]
		return there
	}
	unread = new(int)
	s.collected = func() {
		for key, a := range written {
			first, seen := s.seen[key]
			switch {
			case !seen:
				s.seen[key] = a
				*unread++
			case first.text != a.text:
				s.complain("two answers to %s:\n%s\n%s", key, first.text, a.text)
			}
		}
	}
	return unread
}

// awaitQuiet waits until what was under way to a topic has come: its ends do not move.
func (s *scene) awaitQuiet(topic string) {
	s.Helper()
	var before map[int]int64
	quiet := 0
	realtest.Until(s.T, "nothing comes any more", func() bool {
		now := s.endsOf(topic)
		if quiet++; !maps.Equal(before, now) {
			quiet = 0
		}
		before = now
		return quiet == 10
	})
}

// uncommitted reads the results of a topic, those of transactions that are not ended, too.
func (s *scene) uncommitted(topic string) map[string]answer {
	s.Helper()
	all := map[string]answer{}
	for partition, end := range s.endsOf(topic) {
		for offset, next := int64(0), int64(0); offset < end; offset = max(next, offset+1) { // past ends of transactions
			got, err := s.d.Broker.Client.Fetch(s.Context(), &kafka.FetchRequest{
				Topic: topic, Partition: partition, Offset: offset, MinBytes: 1, MaxBytes: 10 << 20, MaxWait: time.Second, IsolationLevel: kafka.ReadUncommitted,
			})
			if err == nil {
				err = got.Error
			}
			for err == nil {
				var record *kafka.Record
				if record, err = got.Records.ReadRecord(); err != nil {
					break
				}
				next = record.Offset + 1
				value, _ := protocol.ReadAll(record.Value)
				if place := client.RequestID(record.Headers); place != "" {
					all["0 "+place] = answer{text: string(value), topic: topic, at: record.Time}
				}
			}
			if !errors.Is(err, io.EOF) {
				s.Fatal(err)
			}
		}
	}
	return all
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}
