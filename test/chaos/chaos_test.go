//go:build chaos

// Package chaos breaks things under load and counts what became of every request:
// `make chaos`, or `make chaos-short` as CI does. Its tests need a real Kafka
// (deploy/kafka) and redis-server, and start their own.
package chaos

import (
	"context"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"tollgate/internal/kafka"
	"tollgate/internal/proctest"
	"tollgate/internal/realtest"
	"tollgate/internal/servertest"
)

// shared is what scenes have in common: the Kafka of every fault that does not harm it,
// and how workers deliver.
var shared struct {
	kafka       *realtest.Kafka
	exactlyOnce bool
}

var report []string

func TestMain(m *testing.M) {
	code := proctest.Main(m)
	fmt.Printf("\n| fault | delivery | requests | repeats | lost | wrong | to recover |\n| --- | --- | ---: | ---: | ---: | ---: | ---: |\n%s\n", strings.Join(report, "\n"))
	os.Exit(code)
}

// fault is something that breaks while checks come in.
type fault struct {
	name string
	// play sets the scene: servers and workers, and returns what breaks them. It must call
	// mark whenever a fault has ended. The load lasts as long as it does, and duration at the least.
	play func(t *testing.T) (s *scene, breaks func(duration time.Duration))
	// resets says that balances reset meanwhile.
	resets bool
	// differs says that the two deliveries meet it differently.
	differs bool
}

// TestFaults plays every fault twice: with results and events published at least once,
// and exactly once. In the short form only what the two meet differently is played twice, the rest by turns.
func TestFaults(t *testing.T) {
	shared.kafka = realtest.StartKafka(t, realtest.KafkaOptions{})
	duration := 24 * time.Second
	if testing.Short() {
		duration = 10 * time.Second
	}
	for i, f := range faults {
		for j, delivery := range []string{"at least once", "exactly once"} {
			if testing.Short() && !f.differs && i%2 == j {
				continue
			}
			t.Run(f.name+"/"+delivery, func(t *testing.T) {
				shared.exactlyOnce = delivery == "exactly once"
				run(t, f, delivery, duration)
			})
		}
	}
}

// newScene makes topics and a scene on a Kafka; redisFlags say where Redis is.
func newScene(t *testing.T, broker kafka.Broker, redisFlags ...string) *scene {
	t.Helper()
	s := &scene{
		T: t, d: proctest.NewDeploymentOn(t, broker, append(redisFlags, fmt.Sprintf("--exactly-once=%t", shared.exactlyOnce))...),
		once: shared.exactlyOnce, seen: map[string]answer{}, latest: map[string]int64{}, lives: make([]life, 1), loaded: make(chan struct{}),
	}
	s.results = []*servertest.Drain{servertest.NewDrain(t, broker, s.d.Topics.CheckResults)}
	return s
}

// sharedScene is a scene on the shared Kafka and a Redis.
func sharedScene(t *testing.T, redisFlags ...string) *scene {
	t.Helper()
	return newScene(t, servertest.BrokerAt(t, shared.kafka.Addr), redisFlags...)
}

func run(t *testing.T, f fault, delivery string, duration time.Duration) {
	s, breaks := f.play(t)
	s.provision(duration)
	collecting, stop := context.WithCancel(t.Context())
	collected := make(chan struct{})
	go func() {
		defer close(collected)
		s.collect(collecting)
	}()
	sending, broken := make(chan error, 1), make(chan struct{})
	go func() { sending <- s.load(duration, broken) }()
	func() {
		defer close(broken) // also if it fails: the load must end
		breaks(duration)
	}()
	if err := <-sending; err != nil {
		t.Fatal(err)
	}
	asked := s.questions()
	s.awaitAnswers(asked)
	stop()
	<-collected
	s.collectOnce(t.Context()) // repeats that came last
	if s.collected != nil {
		s.collected()
	}
	lost := s.reconcile(asked)
	if s.afterwards != nil {
		s.afterwards()
	}
	if lost > 0 || len(s.wrong) > 0 {
		t.Errorf("%d lost, %d wrong: %.2000s", lost, len(s.wrong), strings.Join(s.wrong, "\n"))
	}
	if f.resets != (s.resets > 0) {
		t.Errorf("%d resets were seen", s.resets)
	}
	report = append(report, fmt.Sprintf("| %s | %s | %d | %d | %d | %d | %.1f s |", f.name, delivery, len(asked), s.repeats, lost, len(s.wrong), s.recovery().Seconds()))
	t.Log(report[len(report)-1])
}

// none are the flags of workers that need none of their own.
func none(workers int) [][]string { return make([][]string, workers) }
