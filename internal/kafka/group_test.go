package kafka_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"tollgate/internal/kafka"
	"tollgate/internal/servertest"
)

func (f *fixture) newGroup() *kafka.Group {
	return kafka.NewGroup(f.broker, kafka.GroupOptions{
		Group: f.group, Topics: []string{f.at.Topic}, SessionTimeout: 6 * time.Second, RebalanceTimeout: 10 * time.Second,
	}, servertest.Logger(f.T))
}

// awaitCoordinator waits until the group has one: a Kafka that was just started makes the topic of offsets first.
func (f *fixture) awaitCoordinator() {
	f.Helper()
	servertest.Until(f.T, "a coordinator", func() bool {
		_, err := f.broker.Commitments(f.Context(), f.group, f.at.Topic, []int{0})
		return err == nil
	})
}

// TestAMemberThatWasForgottenJoinsAtOnce is a regression test: the first try failed, so that a member waited for up to
// seven seconds before it joined as a new one, after a Kafka that was away.
func TestAMemberThatWasForgottenJoinsAtOnce(t *testing.T) {
	f := newFixture(t)
	f.awaitCoordinator()
	group := f.newGroup()
	for range 2 {
		generation, err := group.Join(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if partitions := generation.Partitions(); partitions != 1 {
			t.Errorf("%d partitions", partitions)
		}
		if err := group.Forgotten(t.Context()); err != nil {
			t.Fatal(err)
		}
		generation.Close()
	}
}

// TestMembersThatComeTogetherJoinAtOnce is a regression test: one that another overtook, between its joining and its
// being told of its partitions, failed and paused, while the group waited for it.
func TestMembersThatComeTogetherJoinAtOnce(t *testing.T) {
	f := newFixture(t)
	f.awaitCoordinator()
	const members = 12
	var joining errgroup.Group
	for range members {
		joining.Go(func() error {
			group := f.newGroup()
			generation, err := group.Join(t.Context())
			if err != nil {
				return err
			}
			generation.Close()
			return group.Leave(context.WithoutCancel(t.Context()))
		})
	}
	if err := joining.Wait(); err != nil {
		t.Error(err)
	}
}

// TestALateAnswerDoesNotEndTheGeneration is a regression test: heartbeats are sent by several at a time, and one that was
// answered after another that was sent later was taken for a clock that runs back, or for a group that has waited long.
func TestALateAnswerDoesNotEndTheGeneration(t *testing.T) {
	for after, isLost := range map[time.Duration]bool{-time.Second: false, 0: false, time.Second: false, time.Minute: true} {
		if err := kafka.Answered(time.Minute, after); errors.Is(err, kafka.ErrFenced) != isLost {
			t.Errorf("a heartbeat of %v after another: %v", after, err)
		}
	}
}

// TestAMembershipIsTrustedForHalfASessionAtMost, and no longer than the group waits when it rebalances. A clock that was set
// back makes nothing last longer.
func TestAMembershipIsTrustedForHalfASessionAtMost(t *testing.T) {
	const session, rebalance = 10 * time.Second, 60 * time.Second
	now := time.Now()
	for what, c := range map[string]struct {
		confirmed, settled time.Duration // ago
		want               bool
	}{
		"just confirmed":                      {0, 0, true},
		"within half a session":               {4 * time.Second, 4 * time.Second, true},
		"half a session ago":                  {5 * time.Second, 5 * time.Second, false},
		"the group rebalances":                {time.Second, 59 * time.Second, true},
		"the group has waited for its time":   {time.Second, 60 * time.Second, false},
		"confirmed in what is the future now": {-time.Second, 0, false},
	} {
		if got := kafka.Trusts(session, rebalance, now, now.Add(-c.confirmed), now.Add(-c.settled)); got != c.want {
			t.Errorf("%s: %t", what, got)
		}
	}
}
