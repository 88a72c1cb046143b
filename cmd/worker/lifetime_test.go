package main

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"

	kafkago "github.com/segmentio/kafka-go"

	"tollgate/internal/proctest"
)

// TestNothingIsDeductedTwiceUnderAnotherGroup gives workers a group that was renamed, and one
// that was deleted: they wait until its offsets are set, and what is decided again is what the
// operator wants to be.
func TestNothingIsDeductedTwiceUnderAnotherGroup(t *testing.T) {
	for name, flag := range map[string]string{"at least once": "--exactly-once=false", "exactly once": "--exactly-once"} {
		t.Run(name, func(t *testing.T) { underAnotherGroup(t, flag) })
	}
}

func underAnotherGroup(t *testing.T, delivery string) {
	const check = `{"customer_id":"acme","feature_id":"images","send_event":true}`
	d := proctest.NewDeployment(t)
	usageIs := func(want string) {
		t.Helper()
		if result := d.Check(t, "acme", check); result.Balance == nil || string(result.Balance.Usage) != want {
			t.Fatalf("got %+v, want a usage of %s", result, want)
		}
	}
	worker, _ := d.StartReady(t, delivery)
	d.Command(t, "acme", `{"type":"customer.put","customer_id":"acme"}`)
	d.Command(t, "acme", `{"type":"balance.grant","customer_id":"acme","feature_id":"images","amount":100,"balance_id":"gift"}`)
	for range 5 {
		d.Check(t, "acme", check)
	}
	usageIs("6")

	worker.Stop(t)
	renamed := d.Group + "-renamed"
	worker, httpAddr := d.Start(t, delivery, "--kafka-group", renamed)
	awaitBlocked(t, httpAddr, renamed, d.Group, "--reset-offsets")
	setOffsets(t, d, renamed, d.Broker.LastOffset)
	worker.AwaitReady(t, httpAddr)
	usageIs("7")

	worker.Stop(t)
	awaitDone(t, "the group is deleted", func() error {
		response, err := d.Broker.Client.DeleteGroups(t.Context(), &kafkago.DeleteGroupsRequest{GroupIDs: []string{renamed}})
		if err != nil {
			t.Fatal(err)
		}
		return response.Errors[renamed]
	})
	worker, httpAddr = d.Start(t, delivery, "--kafka-group", renamed)
	awaitBlocked(t, httpAddr, "no committed offset")
	setOffsets(t, d, renamed, d.Broker.LastOffset)
	worker.AwaitReady(t, httpAddr)
	usageIs("8")

	// All eight once more, because somebody wants it.
	worker.Stop(t)
	setOffsets(t, d, renamed, d.Broker.FirstOffset)
	d.StartReady(t, delivery, "--kafka-group", renamed)
	usageIs("17")
}

// awaitBlocked waits until a worker says that it waits for offsets, in these words among others.
func awaitBlocked(t *testing.T, httpAddr string, words ...string) {
	t.Helper()
	awaitDone(t, "the partitions wait", func() error {
		response, err := http.Get("http://" + httpAddr + "/readyz")
		if err != nil {
			return err // not listening yet
		}
		_ = response.Body.Close()
		_, body := proctest.Get(t, "http://"+httpAddr+"/readyz")
		text := string(body)
		for _, word := range append(words, "partitions: ", " 0-3 wait: ", "group: not joined") {
			if !strings.Contains(text, word) {
				return errors.New(text)
			}
		}
		return nil
	})
	if metrics := get(t, "http://"+httpAddr+"/metrics"); !strings.Contains(metrics, "tollgate_partitions_blocked 8") {
		t.Errorf("no blocked partitions in\n%s", metrics)
	}
}

// setOffsets does what Kafka's tools do, which Kafka takes once the group has no members.
func setOffsets(t *testing.T, d *proctest.Deployment, group string, offsetOf func(context.Context, string, int) (int64, error)) {
	t.Helper()
	for _, topic := range []string{d.Topics.Checks, d.Topics.Commands} {
		for partition := range proctest.Partitions {
			offset, err := offsetOf(t.Context(), topic, partition)
			if err != nil {
				t.Fatal(err)
			}
			awaitDone(t, "the offset is set", func() error {
				return d.Broker.Commit(t.Context(), group, topic, partition, offset)
			})
		}
	}
}

// awaitDone tries until it succeeds.
func awaitDone(t *testing.T, what string, try func() error) {
	t.Helper()
	timeout := time.After(proctest.AnswerTimeout)
	for {
		err := try()
		if err == nil {
			return
		}
		select {
		case <-time.After(20 * time.Millisecond):
		case <-timeout:
			t.Fatalf("%s: never: %v", what, err)
		}
	}
}
