package client

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	kafkago "github.com/segmentio/kafka-go"

	"tollgate/internal/kafka"
	"tollgate/internal/wire"
)

// TestSendingEndsWithARefusal is a regression: it tried until its context ended, which at a terminal is never.
func TestSendingEndsWithARefusal(t *testing.T) {
	for code, wants := range map[kafkago.Error][]string{
		kafkago.TopicAuthorizationFailed: {"this user may not write to topic t (TOPIC_AUTHORIZATION_FAILED)", "docs/security.md"},
		kafkago.InvalidRecord:            {"cannot write to topic t (INVALID_RECORD)"},
		kafkago.PolicyViolation:          {"POLICY_VIOLATION"},
	} {
		t.Run(code.Title(), func(t *testing.T) {
			r := newRig(t)
			r.failProduces(code, always)
			ctx := within(t)
			mustSay(t, r.Send(ctx, []kafka.Message{record("a")}), wants...)
			if ctx.Err() != nil {
				t.Error("it took too long")
			}
			if got := r.log.warnings(); got != 0 {
				t.Errorf("%d warnings beside the error:\n%s", got, r.log.text.String())
			}
		})
	}
	t.Run("a topic that is missing", func(t *testing.T) {
		r := newRig(t)
		lost := record("a")
		lost.Topic = "nosuch"
		mustSay(t, r.Send(within(t), []kafka.Message{record("a"), lost}), "topic nosuch does not exist")
	})
}

func TestSendingOutlastsWhatPassesAndSaysSoOnce(t *testing.T) {
	for _, code := range []kafkago.Error{kafkago.NotLeaderForPartition, kafkago.NotEnoughReplicas, kafkago.UnknownTopicOrPartition} {
		t.Run(code.Title(), func(t *testing.T) {
			r := newRig(t)
			r.failProduces(code, times(3))
			if err := r.Send(within(t), []kafka.Message{record("a")}); err != nil {
				t.Fatal(err)
			}
			if got := r.log.warnings(); got != 1 {
				t.Errorf("%d warnings:\n%s", got, r.log.text.String())
			}
		})
	}
}

func question() Request {
	return Request{Topic: topic, CustomerID: "acme", Headers: []kafka.Header{Header(wire.HeaderRequestID, "q")}}
}

// A question that comes back to the topic it was asked on stands for its answer.
func TestAnAnswerIsFoundThoughALeaderMoves(t *testing.T) {
	r := newRig(t)
	r.failFetches(kafkago.NotLeaderForPartition, times(2))
	answer, err := r.Ask(within(t), question(), topic)
	if err != nil || RequestID(answer.Record.Headers) != "q" {
		t.Fatal(answer, err)
	}
}

func TestWithoutAnAnswerTheReasonIsSaid(t *testing.T) {
	const other = "silent"
	ask := func(r *rig, resultTopic string) error {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err := r.Ask(ctx, question(), resultTopic)
		return err
	}
	t.Run("nothing comes", func(t *testing.T) {
		r := newRig(t)
		if _, err := r.broker.CreateTopics(t.Context(), []kafka.Topic{{Name: other, Partitions: 1, ReplicationFactor: 1, Retention: time.Hour}}); err != nil {
			t.Fatal(err)
		}
		if err := ask(r, other); !errors.Is(err, ErrNoAnswer) || !strings.Contains(err.Error(), "is a worker running?") {
			t.Errorf("got %v", err)
		}
	})
	t.Run("no leader", func(t *testing.T) {
		r := newRig(t)
		r.failFetches(kafkago.LeaderNotAvailable, always)
		if err := ask(r, topic); !errors.Is(err, ErrNoAnswer) || !errors.Is(err, kafkago.LeaderNotAvailable) {
			t.Errorf("got %v", err)
		}
	})
	t.Run("no leader to write to", func(t *testing.T) {
		r := newRig(t)
		r.failProduces(kafkago.LeaderNotAvailable, always)
		if err := ask(r, topic); !errors.Is(err, ErrNoAnswer) || strings.Contains(err.Error(), "worker") {
			t.Errorf("got %v", err)
		}
	})
	t.Run("no right", func(t *testing.T) {
		r := newRig(t)
		r.failFetches(kafkago.TopicAuthorizationFailed, always)
		mustSay(t, ask(r, topic), "may not read topic t")
	})
}

// TestAReplayOfATopicThatWasMadeAnewIsNoSuccess is a regression: it said that there was nothing to send back.
func TestAReplayOfATopicThatWasMadeAnewIsNoSuccess(t *testing.T) {
	r := newRig(t)
	replay := &Replay{DeadLetters: topic, Group: "replay"}
	if err := r.broker.Commit(t.Context(), replay.Group, topic, 0, 7); err != nil {
		t.Fatal(err)
	}
	err := replay.Run(within(t), r.Client, func(Replayed) {})
	if err == nil || !strings.Contains(err.Error(), "partition 0 ends at offset 0, and group replay has noted 7") {
		t.Errorf("got %v", err)
	}
}
