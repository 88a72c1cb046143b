//go:build chaos

package chaos

import (
	"testing"
	"time"

	"tollgate/internal/realtest"
	"tollgate/internal/servertest"
)

// clusterFault plays a fault on a Kafka of three brokers, whose topics have three copies of which two must be in
// sync.
func clusterFault(breaks func(s *scene, c *realtest.KafkaCluster, duration time.Duration)) func(*testing.T) (*scene, func(time.Duration)) {
	return func(t *testing.T) (*scene, func(time.Duration)) {
		c, r := realtest.StartKafkaCluster(t, 3), realtest.StartRedis(t)
		s := newScene(t, servertest.BrokerAt(t, c.Addrs()...), "--redis-addrs", r.Addr)
		c.AwaitWhole(t, s.d.Topics.All()...)
		s.startWorkers(none(3)...)
		return s, func(duration time.Duration) { breaks(s, c, duration) }
	}
}

// leaderKilled kills the broker that leads the first partition of the checks topic, among others; the others take
// over. It comes back later, and leads nothing.
func leaderKilled(s *scene, c *realtest.KafkaCluster, duration time.Duration) {
	time.Sleep(duration / 4)
	leader := c.Leader(s.T, s.d.Topics.Checks, 0)
	leader.Kill(s.T)
	if c.Leader(s.T, s.d.Topics.Checks, 0) == leader {
		s.Error("a dead broker leads")
	}
	s.mark()
	s.awaitAnswersOf(func(int) bool { return true })
	leader.Start(s.T)
	c.AwaitWhole(s.T, s.d.Topics.All()...)
	s.mark()
	s.awaitAnswersOf(func(int) bool { return true })
}

// tooFewInSync freezes the two brokers that follow the leader of the first partition: no partition has enough copies
// in sync then, so Kafka takes nothing, from nobody. They go on later.
func tooFewInSync(s *scene, c *realtest.KafkaCluster, duration time.Duration) {
	time.Sleep(duration / 4)
	followers := c.Followers(s.T, s.d.Topics.Checks, 0)
	for _, follower := range followers {
		follower.Freeze(s.T)
	}
	for _, topic := range s.d.Topics.All() {
		c.AwaitInSync(s.T, topic, 0, 1)
	}
	time.Sleep(duration / 4)
	for _, follower := range followers {
		follower.Thaw(s.T)
	}
	c.AwaitWhole(s.T, s.d.Topics.All()...)
	s.mark()
	s.awaitAnswersOf(func(int) bool { return true })
}
