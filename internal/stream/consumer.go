package stream

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/segmentio/kafka-go"
)

// Options are how a consumer works.
type Options struct {
	Group          string
	Topics         []string
	SessionTimeout time.Duration // after which a silent worker loses its partitions
	BatchMax       int           // records decided together, fewer where there are many partitions
	BatchLinger    time.Duration // how long a batch may wait to fill; 0: not at all
	// ShutdownTimeout bounds the finishing of what is in hand when a generation ends.
	ShutdownTimeout time.Duration
	Refused         Refused
	// ExactlyOnce publishes and commits in transactions, so that consumers that read only
	// what is committed see everything once.
	ExactlyOnce bool
	// Lifetimes remembers in which lifetime of the group's offsets partitions were decided;
	// nil where nothing lasts that decisions change.
	Lifetimes Lifetimes
}

// rebalanceTimeout is how long the group waits for its members to hand over.
const rebalanceTimeout = 30 * time.Second

// MaxShutdownTimeout bounds Options.ShutdownTimeout: a worker must have let go of its
// partitions while the group still waits for it.
const MaxShutdownTimeout = rebalanceTimeout / 2

// What is in hand is bounded for the worker as a whole: of many partitions less is fetched
// and decided at a time.
const (
	fetchAllBytes   = 16 << 20
	fetchLeastBytes = 64 << 10
	batchAll        = 16_000 // records
	batchLeast      = 50
)

// Consumer consumes topics as a member of a group.
type Consumer struct {
	broker    Broker
	options   Options
	decider   Decider
	publisher *Publisher
	logger    *slog.Logger
	observer  Observer
	joined    atomic.Bool
	cluster   string // its id
	blocked   blocked
}

// NewConsumer makes a consumer; Run makes it work.
func NewConsumer(broker Broker, options Options, decider Decider, publisher *Publisher, logger *slog.Logger, observer Observer) *Consumer {
	options.ShutdownTimeout = min(options.ShutdownTimeout, MaxShutdownTimeout)
	if options.Lifetimes == nil {
		options.Lifetimes = forgetful{}
	}
	return &Consumer{broker: broker, options: options, decider: decider, publisher: publisher, logger: logger, observer: observer}
}

// Joined says whether the consumer is a member of its group, with its partitions
// at work.
func (c *Consumer) Joined() bool { return c.joined.Load() }

// Run consumes until ctx ends; then it finishes what is in hand, commits it and
// leaves the group. It fails where the group cannot be set up at all.
func (c *Consumer) Run(ctx context.Context) error {
	if err := c.identify(ctx); err != nil {
		return nil // ctx ended
	}
	for {
		if err := c.takePart(ctx); err != nil || ctx.Err() != nil {
			return err
		}
		c.stayOut(ctx)
	}
}

// takePart consumes as a member of the group until ctx ends, or none of its partitions can begin.
func (c *Consumer) takePart(ctx context.Context) error {
	ctx, leave := context.WithCancel(ctx)
	defer leave()
	group, err := kafka.NewConsumerGroup(kafka.ConsumerGroupConfig{
		ID: c.options.Group, Brokers: c.broker.Addresses, Dialer: c.broker.Dialer, Topics: c.options.Topics,
		// Range gives partition n of every topic to the same worker.
		GroupBalancers:        []kafka.GroupBalancer{kafka.RangeGroupBalancer{}},
		HeartbeatInterval:     min(3*time.Second, c.options.SessionTimeout/3),
		SessionTimeout:        c.options.SessionTimeout,
		RebalanceTimeout:      rebalanceTimeout,
		JoinGroupBackoff:      time.Second,
		WatchPartitionChanges: true,
		StartOffset:           kafka.FirstOffset,
		Logger:                kafka.LoggerFunc(func(format string, args ...any) { c.logger.Debug(fmt.Sprintf(format, args...)) }),
		ErrorLogger:           kafka.LoggerFunc(func(format string, args ...any) { c.logger.Warn(fmt.Sprintf(format, args...)) }),
	})
	if err != nil {
		return fmt.Errorf("consumer group %s: %w", c.options.Group, err)
	}
	for try := 0; ; {
		generation, err := group.Next(ctx)
		switch {
		case err == nil:
			try = 0
			c.begin(generation, leave)
		case ctx.Err() != nil || errors.Is(err, kafka.ErrGroupClosed):
			return group.Close()
		default:
			c.joined.Store(false)
			logRetry(c.logger, try, "cannot join the group, trying again", err, "group", c.options.Group)
			c.observer.Retried()
			try++
		}
	}
}

// identify reads the id of the cluster, trying until it succeeds or ctx ends.
func (c *Consumer) identify(ctx context.Context) error {
	for try := 0; ; try++ {
		id, err := ClusterID(ctx, c.broker.Client)
		if err == nil {
			c.cluster = id
			return nil
		}
		logRetry(c.logger, try, "cannot reach Kafka, trying again", err)
		c.observer.Retried()
		if !pause(ctx, try) {
			return context.Cause(ctx)
		}
	}
}

// begin starts a flow for every partition that the generation assigns.
func (c *Consumer) begin(generation *kafka.Generation, leave func()) {
	c.blocked.clear()
	member := newMembership(c.broker.Client, generation, c.options.SessionTimeout)
	commits := newCommitter(member, c.logger, c.observer)
	partitions := 0
	for _, assignments := range generation.Assignments {
		partitions += len(assignments)
	}
	for topic, assignments := range generation.Assignments {
		for _, assigned := range assignments {
			f := &flow{
				consumer: c, topic: topic, partition: assigned.ID, generation: int(generation.ID), member: member,
				fresh: newLifetimeID(), siblings: partitions, leave: leave,
				batchMax:   min(max(batchAll/partitions, batchLeast), c.options.BatchMax),
				fetchBytes: min(max(fetchAllBytes/partitions, fetchLeastBytes), FetchMaxBytes),
				decider:    c.decider.Partition(topic, assigned.ID),
				logger:     c.logger.With("topic", topic, "partition", assigned.ID, "generation", generation.ID),
			}
			if c.options.ExactlyOnce {
				id := fmt.Sprintf("%s/%s/%d", c.options.Group, topic, assigned.ID)
				f.delivery = &exactlyOnce{flow: f, id: id}
			} else {
				f.delivery = &atLeastOnce{flow: f, commits: commits}
			}
			commits.flows.Add(1)
			generation.Start(func(ctx context.Context) {
				defer commits.flows.Done()
				f.run(ctx)
			})
		}
	}
	generation.Start(commits.run)
	generation.Start(func(ctx context.Context) {
		c.joined.Store(true)
		<-ctx.Done()
		c.joined.Store(false)
	})
	c.logger.Info("joined the group", "group", c.options.Group, "generation", generation.ID, "partitions", partitions)
}
