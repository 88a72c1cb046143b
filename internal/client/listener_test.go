package client

import (
	"context"
	"testing"

	kafkago "github.com/segmentio/kafka-go"

	"tollgate/internal/kafka"
	"tollgate/internal/servertest"
)

// TestAListenerSaysWhyItCannotRead is a regression: it went on in silence, whatever Kafka answered.
func TestAListenerSaysWhyItCannotRead(t *testing.T) {
	for code, wants := range map[kafkago.Error][]string{
		kafkago.TopicAuthorizationFailed:   {"this user may not read topic t (TOPIC_AUTHORIZATION_FAILED)", "docs/security.md"},
		kafkago.ClusterAuthorizationFailed: {"CLUSTER_AUTHORIZATION_FAILED"},
		kafkago.UnsupportedCompressionType: {"cannot read topic t (UNSUPPORTED_COMPRESSION_TYPE)"},
	} {
		t.Run(code.Title(), func(t *testing.T) {
			r := newRig(t)
			listener, err := r.Listen(within(t), topic, true)
			if err != nil {
				t.Fatal(err)
			}
			r.failFetches(code, always)
			ctx := within(t)
			mustSay(t, listener.Run(ctx, func(kafka.Message) {}), wants...)
			if ctx.Err() != nil {
				t.Error("it took too long")
			}
		})
	}
}

// listen runs a listener until it has seen so many records.
func listen(t *testing.T, r *rig, listener *Listener, count int) {
	t.Helper()
	ctx, stop := context.WithCancel(within(t))
	defer stop()
	seen := 0
	err := listener.Run(ctx, func(kafka.Message) {
		if seen++; seen == count {
			stop()
		}
	})
	if err != nil || seen != count {
		t.Fatalf("saw %d records of %d: %v\n%s", seen, count, err, r.log.text.String())
	}
}

func TestAListenerTriesAgainAndSaysSoOnce(t *testing.T) {
	r := newRig(t)
	listener, err := r.Listen(within(t), topic, true)
	if err != nil {
		t.Fatal(err)
	}
	r.failFetches(kafkago.NotLeaderForPartition, times(3*partitions))
	if err := r.Send(within(t), []kafka.Message{record("a"), record("b"), record("c")}); err != nil {
		t.Fatal(err)
	}
	listen(t, r, listener, 3)
	if got := r.log.warnings(); got != 1 {
		t.Errorf("%d warnings:\n%s", got, r.log.text.String())
	}
}

func TestAMissingTopicIsSaidAtOnce(t *testing.T) {
	r := newRig(t)
	_, err := r.Listen(within(t), "nosuch", false)
	mustSay(t, err, "topic nosuch does not exist (UNKNOWN_TOPIC_OR_PARTITION)", "worker topics create")
}

func TestAListenerEndsWithItsTopic(t *testing.T) {
	r := newRig(t)
	listener, err := r.Listen(within(t), topic, false)
	if err != nil {
		t.Fatal(err)
	}
	deleteTopic(t, r)
	mustSay(t, listener.Run(within(t), func(kafka.Message) {}), "topic t does not exist")
}

func deleteTopic(t *testing.T, r *rig) {
	t.Helper()
	response, err := r.broker.Client.DeleteTopics(t.Context(), &kafkago.DeleteTopicsRequest{Topics: []string{topic}})
	if err != nil || response.Errors[topic] != nil {
		t.Fatal(err, response)
	}
}

func TestAListenerEndsIfItsTopicIsMadeAnew(t *testing.T) {
	r := newRig(t)
	if err := r.Send(within(t), []kafka.Message{record("a"), record("b"), record("c"), record("d")}); err != nil {
		t.Fatal(err)
	}
	listener, err := r.Listen(within(t), topic, false)
	if err != nil {
		t.Fatal(err)
	}
	deleteTopic(t, r)
	servertest.CreateTopics(t, r.broker, partitions, topic)
	mustSay(t, listener.Run(within(t), func(kafka.Message) {}), "topic t was truncated or made anew", "start again")
}

func TestAListenerGoesOnBehindDeletedRecords(t *testing.T) {
	r := newRig(t)
	listener, err := r.Listen(within(t), topic, true)
	if err != nil {
		t.Fatal(err)
	}
	const partition = 1
	for _, value := range []string{"a", "b"} {
		if err := r.Send(within(t), []kafka.Message{{Topic: topic, Partition: partition, Value: []byte(value)}}); err != nil {
			t.Fatal(err)
		}
	}
	r.deleteRecords(t, partition, 2)
	if err := r.Send(within(t), []kafka.Message{{Topic: topic, Partition: partition, Value: []byte("c")}}); err != nil {
		t.Fatal(err)
	}
	listen(t, r, listener, 1)
	if got := r.log.warnings(); got != 1 {
		t.Errorf("%d warnings:\n%s", got, r.log.text.String())
	}
}
