package stream

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	kafkago "github.com/segmentio/kafka-go"

	"tollgate/internal/kafka"
	"tollgate/internal/retry"
)

// Truncation is what to do if a log no longer has what was read from it.
type Truncation string

// A partition whose log was truncated stops until an operator has seen to it, or goes on at the end of what is left.
const (
	TruncationStops Truncation = "stop"
	TruncationGoOn  Truncation = "end"
)

// Options are how a consumer works.
type Options struct {
	Group      string
	InstanceID string // of a static member, "" for none
	Rack       string // of this worker, to fetch from followers that are near
	Topics     []string
	// SessionTimeout is after how long a silent worker loses its partitions.
	SessionTimeout time.Duration
	BatchMax       int           // records decided together, fewer if there are many partitions
	BatchLinger    time.Duration // how long a batch may wait to fill; 0: not at all
	// ShutdownTimeout bounds the finishing of what is in hand when a generation ends.
	ShutdownTimeout time.Duration
	Refused         kafka.Refused
	// MaxValueBytes is how much is kept of the value of a record (kafka.Cut); 0 for 64 KiB.
	MaxValueBytes int
	// ExactlyOnce publishes and commits in transactions, so that consumers that read only what is committed see
	// everything once.
	ExactlyOnce  bool
	OnTruncation Truncation
	// StalledAfter is how long a partition may stand still that has records before Stalls lists it; 0 for the default.
	StalledAfter time.Duration
	// Lifetimes remembers in which lifetime of the group's offsets partitions were decided; nil if nothing lasts
	// that decisions change.
	Lifetimes Lifetimes
}

// RebalanceTimeout is how long the group waits for its members to hand over (Kafka's max.poll.interval.ms is five
// minutes; ours need no more than the shutdown timeout).
const RebalanceTimeout = 60 * time.Second

// MaxShutdownTimeout bounds Options.ShutdownTimeout: a worker must have let go of its partitions while the group
// still waits for it.
const MaxShutdownTimeout = RebalanceTimeout / 2

// What is in hand is bounded for the worker as a whole: of many partitions less is decided at a time.
const (
	batchAll        = 16_000 // records
	batchLeast      = 50
	batchAllBytes   = 8 << 20
	batchLeastBytes = 128 << 10
	batchMostBytes  = 1 << 20
)

// Consumer consumes topics as a member of a group.
type Consumer struct {
	broker    kafka.Broker
	options   Options
	decider   Decider
	publisher *kafka.Publisher
	logger    *slog.Logger
	observer  Observer
	fetcher   *kafka.Fetcher
	cluster   string // its id
	byID      bool   // topics are fetched from by their ids
	joined    atomic.Bool
	outside   atomic.Pointer[error] // why it is not joined
	blocked   blocked
	watch     watch
}

// NewConsumer makes a consumer; Run makes it work.
func NewConsumer(broker kafka.Broker, options Options, decider Decider, publisher *kafka.Publisher, logger *slog.Logger, observer Observer) *Consumer {
	options.ShutdownTimeout = min(options.ShutdownTimeout, MaxShutdownTimeout)
	options.StalledAfter = cmp.Or(options.StalledAfter, stalledAfter)
	if options.Lifetimes == nil {
		options.Lifetimes = forgetful{}
	}
	return &Consumer{
		broker: broker, options: options, decider: decider, publisher: publisher, logger: logger, observer: observer,
		fetcher: kafka.NewFetcher(broker, kafka.FetcherOptions{Rack: options.Rack, Retried: observer.Retried}, logger),
	}
}

// Joined says whether the consumer is a member of its group, with its partitions at work.
func (c *Consumer) Joined() bool { return c.joined.Load() }

// Membership is nil while the consumer is a member of its group, with its partitions at work. Else it says why it is not.
func (c *Consumer) Membership() error {
	if c.joined.Load() {
		return nil
	}
	if reason := c.outside.Load(); reason != nil {
		return *reason
	}
	return errNotBegun
}

// stayOutside notes why the consumer is no member.
func (c *Consumer) stayOutside(reason error) { c.outside.Store(&reason) }

var (
	errAllBlocked = errors.New("none of the partitions can go on")
	errStopping   = errors.New("the worker stops")
	errNotBegun   = errors.New("it has not tried to join yet: first Kafka, Redis and the topics must be there")
	errJoining    = errors.New("it waits for the other members, or for the session of one that is gone")
)

// Run consumes until ctx ends; then it finishes what is in hand, commits it and leaves the group. It fails if another
// worker has taken the name of this static member: two that take it from each other would stop each other for ever.
func (c *Consumer) Run(ctx context.Context) error {
	if err := c.identify(ctx); err != nil {
		return nil // ctx ended
	}
	fetching, stop := context.WithCancel(context.WithoutCancel(ctx))
	var fetcher sync.WaitGroup
	fetcher.Go(func() { c.fetcher.Run(fetching) })
	defer fetcher.Wait()
	defer stop()
	for ctx.Err() == nil {
		if err := c.takePart(ctx); err != nil {
			return err
		}
		if ctx.Err() == nil {
			c.stayOut(ctx)
		}
	}
	return nil
}

// isReplaced says that another worker has the name of this static member by now.
func (c *Consumer) isReplaced(err error) error {
	if !errors.Is(err, kafkago.FencedInstanceID) {
		return nil
	}
	return fmt.Errorf("another worker has started as %q in group %s (--kafka-instance-id), and has the partitions of this one; give each worker a name of its own: %w",
		c.options.InstanceID, c.options.Group, err)
}

// identify reads the id of the cluster, trying until it succeeds or ctx ends.
func (c *Consumer) identify(ctx context.Context) error {
	return retry.Do(ctx, c.policy("cannot reach Kafka, trying again"), func() (err error) {
		if c.cluster, err = c.broker.ClusterID(ctx); err == nil {
			c.byID, err = c.broker.FetchesByID(ctx)
		}
		return err
	})
}

func (c *Consumer) policy(complaint string) retry.Policy {
	policy := patience
	policy.Failed = func(err error, before int) {
		retry.Log(c.logger, complaint, err, before, "group", c.options.Group)
		c.observer.Retried()
		c.stayOutside(err)
	}
	return policy
}

// shortGeneration is what a generation lasts at least unless something is wrong.
const shortGeneration = 30 * time.Second

// longestBetweenJoins is how long a worker that has nothing else to do waits before it tries to join again: nothing is
// decided meanwhile.
const longestBetweenJoins = time.Second

// takePart consumes as a member of the group until ctx ends, or none of its partitions can go on. It fails if it must not
// take part any more.
func (c *Consumer) takePart(ctx context.Context) error {
	group := kafka.NewGroup(c.broker, kafka.GroupOptions{
		Group: c.options.Group, InstanceID: c.options.InstanceID, Topics: c.options.Topics,
		SessionTimeout: c.options.SessionTimeout, RebalanceTimeout: RebalanceTimeout,
	}, c.logger)
	defer func() {
		if err := group.Leave(context.WithoutCancel(ctx)); err != nil {
			c.logger.Warn("cannot leave the group; its partitions wait until the session is over", "error", err)
		}
	}()
	for short := 0; ctx.Err() == nil; {
		c.stayOutside(errJoining)
		var generation *kafka.Generation
		joining := c.policy("cannot join the group, trying again")
		joining.Longest = longestBetweenJoins
		err := retry.Do(ctx, joining, func() (err error) {
			generation, err = group.Join(ctx)
			if c.isReplaced(err) != nil {
				return retry.Permanent(err)
			}
			return err
		})
		if err != nil {
			return c.isReplaced(err) // nil if ctx ended
		}
		began := time.Now()
		reason := c.serve(ctx, generation)
		generation.Close()
		c.logger.Info("the generation is over", "generation", generation.ID, "reason", reason)
		switch {
		case c.isReplaced(reason) != nil:
			return c.isReplaced(reason)
		case errors.Is(reason, errAllBlocked):
			return nil
		case time.Since(began) > shortGeneration || isGroupsReason(reason):
			short = 0
		default: // a generation that we end must not end others all the time
			retry.Pause(ctx, patience, short)
			short++
		}
		if !isGroupsReason(reason) {
			group.Renew()
		}
	}
	return nil
}

// isGroupsReason says that the group has ended the generation, not we.
func isGroupsReason(reason error) bool {
	return errors.Is(reason, kafkago.RebalanceInProgress) || errors.Is(reason, errStopping)
}

// serve works on the partitions of a generation until it is over and they are handed over. It returns why.
func (c *Consumer) serve(ctx context.Context, generation *kafka.Generation) (reason error) {
	c.blocked.clear()
	commits := newCommitter(generation, c.options.ShutdownTimeout, c.logger, c.observer)
	flows := c.flows(generation, commits)
	c.watch.begin(flows)
	c.logger.Info("joined the group", "group", c.options.Group, "generation", generation.ID, "partitions", len(flows))
	c.observer.Assigned(len(flows))
	c.joined.Store(true)
	defer func() {
		c.joined.Store(false)
		c.observer.Assigned(-1)
		// Only now does nobody look at their lag any more.
		for _, f := range flows {
			c.observer.Dropped(f.assignment.Topic, f.assignment.Partition)
		}
	}()
	defer context.AfterFunc(ctx, func() { generation.End(errStopping) })()
	var working, beside sync.WaitGroup
	done := make(chan struct{})
	for _, f := range flows {
		working.Go(func() {
			if err := f.run(generation.Over()); err != nil {
				f.logger.Warn("giving the partition up", "error", err)
				generation.End(fmt.Errorf("%s: %w", f.assignment.Target, err))
			}
		})
	}
	beside.Go(func() { commits.run(done) })
	beside.Go(func() { c.watchLayouts(generation) })
	beside.Go(func() { c.watchLag(generation.Over()) })
	<-generation.Over().Done()
	c.stayOutside(context.Cause(generation.Over()))
	c.joined.Store(false)
	working.Wait()
	close(done)
	beside.Wait()
	return context.Cause(generation.Over())
}

// flows makes a flow for every partition that the generation assigns.
func (c *Consumer) flows(generation *kafka.Generation, commits *committer) (flows []*flow) {
	partitions := max(1, generation.Partitions())
	for topic, ids := range generation.Assignments {
		for _, id := range ids {
			a := &assignment{
				Target: kafka.Target{Topic: topic, Partition: id}, generation: generation, group: c.options.Group,
				topicID: generation.Layouts[topic].ID, progress: newProgress(),
			}
			f := &flow{
				assignment: a, consumer: c,
				batchMax:   min(max(batchAll/partitions, batchLeast), c.options.BatchMax),
				batchBytes: min(max(batchAllBytes/partitions, batchLeastBytes), batchMostBytes),
				logger:     c.logger.With("topic", topic, "partition", id, "generation", generation.ID),
			}
			f.insist = insistence{progress: a.progress, observer: c.observer, logger: f.logger}
			f.delivery = c.delivery(f, commits)
			flows = append(flows, f)
		}
	}
	slices.SortFunc(flows, func(a, b *flow) int { return compareTargets(a.assignment.Target, b.assignment.Target) })
	return flows
}

func (c *Consumer) delivery(f *flow, commits *committer) delivery {
	a := f.assignment
	how := kafka.Delivery{Refused: c.options.Refused, Failed: func(err error) error {
		a.progress.fail(err)
		return nil
	}}
	if c.options.ExactlyOnce {
		insist := f.insist
		insist.longest = longestBetweenTransactions
		return &exactlyOnce{
			assignment: a, broker: c.broker, how: how, insist: insist, logger: f.logger,
			transactions: c.publisher.Transactions(fmt.Sprintf("%s/%s/%d", a.group, a.Topic, a.Partition)),
		}
	}
	how.Confirm = func(ctx context.Context) error {
		return f.insist.on(ctx, "cannot confirm the membership, trying again", func() error { return a.generation.Confirm(ctx) })
	}
	return &atLeastOnce{assignment: a, publisher: c.publisher, how: how, commits: commits}
}
