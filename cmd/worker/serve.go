package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
	"golang.org/x/sync/errgroup"

	"tollgate/internal/balance"
	"tollgate/internal/catalog"
	"tollgate/internal/engine"
	"tollgate/internal/kafka"
	"tollgate/internal/kafka/recordbatch"
	"tollgate/internal/ops"
	"tollgate/internal/settings"
	"tollgate/internal/store"
	"tollgate/internal/stream"
	"tollgate/internal/wire"
)

// serving are the settings that `dev` and `run` share.
type serving struct {
	Topics      settings.Topics `embed:"" prefix:"topic-" group:"Topics"`
	ReplyTopics []string        `placeholder:"NAME" group:"Topics" help:"Topics beside the default ones that a request may have its result sent to."`

	KafkaGroup          string        `default:"tollgate" group:"Kafka" help:"Consumer group."`
	KafkaSessionTimeout time.Duration `default:"45s" group:"Kafka" help:"After this long without a sign of life a worker loses its partitions."`
	KafkaInstanceID     string        `name:"kafka-instance-id" placeholder:"NAME" group:"Kafka" help:"Name of this worker that no other of the group has and that it keeps over restarts (a StatefulSet's pod name): its partitions wait for it for a session, and no rebalance stops the others."`
	ClientRack          string        `placeholder:"RACK" group:"Kafka" help:"Rack or zone of this worker: records are fetched from a replica in it (replica.selector.class of the brokers)."`
	Compression         string        `default:"${compression}" enum:"none,gzip,snappy,lz4,zstd" group:"Kafka" help:"Compression of what is published: ${enum}."`
	OnTruncation        string        `default:"stop" enum:"stop,end" group:"Kafka" help:"What to do with a partition whose log has lost records that were read: stop it until an operator has seen to it, or go on at the end of what is left."`
	ExactlyOnce         bool          `group:"Kafka" help:"Publish results and events and commit offsets in Kafka transactions: consumers that read only what is committed see each result and each event once."`

	BatchMax          int           `default:"500" group:"Deciding" help:"Records decided together, at the most."`
	BatchLinger       time.Duration `default:"0s" group:"Deciding" help:"How long a batch may wait to fill."`
	IdempotencyWindow time.Duration `default:"24h" group:"Deciding" help:"How long an idempotency-key is remembered."`
	ClockOffset       time.Duration `hidden:"" help:"Added to the clock: for tests of workers whose clocks differ."`
	ShutdownTimeout   time.Duration `default:"10s" group:"Deciding" help:"Bounds the finishing of what is in hand, at SIGTERM and when partitions move."`

	HTTPAddr string       `name:"http-addr" default:"127.0.0.1:8080" group:"General" help:"Address of /metrics, /healthz and /readyz."`
	Pprof    bool         `group:"General" help:"Serve /debug/pprof, too."`
	Log      settings.Log `embed:"" prefix:"log-" group:"General"`
}

const (
	minSessionTimeout = time.Second
	maxSessionTimeout = 30 * time.Minute // Kafka's group.max.session.timeout.ms
	maxShutdown       = stream.MaxShutdownTimeout
	maxBatch          = 10_000
)

// check notes what is wrong.
func (s *serving) check(problems *settings.Problems) {
	s.Topics.Check(problems)
	s.Log.Check(problems)
	for _, topic := range s.ReplyTopics {
		settings.CheckTopicName("reply-topics", topic, problems)
		if slices.Contains(s.Topics.Names().All(), topic) && topic != s.Topics.CheckResults && topic != s.Topics.CommandResults {
			problems.Add("--reply-topics: %q is a topic of the worker's own; a request must not have its result sent there", topic)
		}
	}
	if s.KafkaGroup == "" {
		problems.Missing("kafka-group", "the consumer group")
	}
	if s.KafkaSessionTimeout < minSessionTimeout || s.KafkaSessionTimeout > maxSessionTimeout {
		problems.Add("--kafka-session-timeout must be from %v to %v", minSessionTimeout, maxSessionTimeout)
	}
	if s.BatchMax < 1 || s.BatchMax > maxBatch {
		problems.Add("--batch-max must be from 1 to %d", maxBatch)
	}
	if s.BatchLinger < 0 || s.BatchLinger > time.Second {
		problems.Add("--batch-linger must be from 0s to 1s")
	}
	if s.IdempotencyWindow < time.Millisecond {
		problems.Add("--idempotency-window must be 1ms or more")
	}
	if s.ShutdownTimeout <= 0 || s.ShutdownTimeout > maxShutdown {
		problems.Add("--shutdown-timeout must be more than 0s and at most %v", maxShutdown)
	}
	settings.CheckAddress("http-addr", s.HTTPAddr, problems)
	if ops.TracingWanted() {
		if err := ops.CheckTracing(); err != nil {
			problems.Add("%v", err)
		}
	}
}

// worker is a worker with everything that it is made of.
type worker struct {
	broker   kafka.Broker
	redis    redis.UniversalClient
	store    *store.Store
	engine   *engine.Engine
	consumer *stream.Consumer
	sweeper  *engine.Sweeper
	metrics  *ops.Metrics
	http     *ops.HTTPServer
	logger   *slog.Logger
	topics   []string // that must exist
	// replyTopics are those of topics that are not Tollgate's own.
	replyTopics []string
	// ephemeral says that what Redis holds is meant to be lost.
	ephemeral bool
}

// newWorker puts a worker together. Nothing is connected yet, but its HTTP address
// is taken.
func (s *serving) newWorker(broker kafka.Broker, client redis.UniversalClient, options store.Options, rules *balance.Catalog, page pageFlags, logger *slog.Logger) (*worker, error) {
	w := &worker{broker: broker, redis: client, logger: logger, metrics: ops.NewMetrics()}
	topics := s.Topics.Names()
	w.topics, w.replyTopics = slices.Concat(topics.All(), s.ReplyTopics), s.ReplyTopics
	w.metrics.SetChecksTopic(topics.Checks)
	w.metrics.SetCatalog(rules.Version)
	var err error
	if w.store, err = store.New(client, options); err != nil {
		return nil, err
	}
	compression, err := recordbatch.ParseCompression(s.Compression)
	if err != nil {
		return nil, fmt.Errorf("--compression: %w", err)
	}
	observer, handler := page.serve(w, topics)
	clock := func() time.Time { return time.Now().Add(s.ClockOffset) }
	w.engine = engine.New(w.store, rules, engine.Options{
		Topics: topics, ReplyTopics: s.ReplyTopics, IdempotencyWindow: s.IdempotencyWindow, Clock: clock,
	}, logger, observer)
	publisher := kafka.NewPublisher(broker, kafka.PublisherOptions{
		Compression: compression, Published: w.metrics.Published, Retried: w.metrics.Retried,
	}, logger)
	w.sweeper = &engine.Sweeper{
		Store: w.store, Commands: topics.Commands, Clock: clock, Observer: w.metrics, Logger: logger,
		Send: func(ctx context.Context, records []kafka.Message) error {
			return publisher.Publish(ctx, records, kafka.Delivery{
				Refused: func(kafka.Message, error) ([]kafka.Message, bool) { return nil, false },
				Failed:  func(err error) error { return err }, // the sweeper tries again, with what is due then
			})
		},
	}
	w.consumer = stream.NewConsumer(broker, stream.Options{
		Group: s.KafkaGroup, Topics: []string{topics.Checks, topics.Commands}, SessionTimeout: s.KafkaSessionTimeout,
		BatchMax: s.BatchMax, BatchLinger: s.BatchLinger, ShutdownTimeout: s.ShutdownTimeout, Refused: w.engine.Refused,
		ExactlyOnce: s.ExactlyOnce, Lifetimes: w.engine, MaxValueBytes: wire.KeptBytes,
		InstanceID: s.KafkaInstanceID, Rack: s.ClientRack, OnTruncation: stream.Truncation(s.OnTruncation),
	}, w.engine, publisher, logger, w.metrics)
	w.metrics.Watch(
		func() int { return len(w.consumer.Blocked()) },
		func() int { return len(w.stalls()) },
		func() int { return len(w.consumer.Missing()) },
	)
	w.metrics.WatchAway(func() int { return len(w.store.Away()) })
	w.http, err = ops.Listen(ops.HTTPOptions{
		Addr: s.HTTPAddr, Registry: w.metrics.Registry, Pprof: s.Pprof, Page: handler,
		Probes: w.probes(),
	})
	if err != nil {
		return nil, fmt.Errorf("--http-addr: %w", err)
	}
	return w, nil
}

// serve works until ctx ends, and then until what is in hand is finished.
func (w *worker) serve(ctx context.Context) error {
	endTracing, err := w.startTracing(ctx)
	if err != nil {
		return err
	}
	defer endTracing()
	serving, stop := context.WithCancel(context.WithoutCancel(ctx))
	group, groupCtx := errgroup.WithContext(ctx)
	group.Go(func() error { return w.http.Serve(serving) })
	group.Go(func() error { w.watchEvictions(serving); return nil })
	group.Go(func() error {
		defer stop() // /metrics and /readyz answer to the end
		if err := w.prepare(groupCtx); err != nil {
			if groupCtx.Err() != nil {
				return nil
			}
			return err
		}
		group.Go(func() error { w.sweeper.Run(groupCtx); return nil })
		return w.consumer.Run(groupCtx)
	})
	return group.Wait()
}

// prepare waits until Kafka and Redis answer, and holds what they have against what
// the worker needs.
func (w *worker) prepare(ctx context.Context) error {
	missing, err := eventually(ctx, w, "kafka", func(ctx context.Context) ([]string, error) {
		return w.broker.MissingTopics(ctx, w.topics)
	})
	if err != nil {
		return err
	}
	if len(missing) > 0 {
		return fmt.Errorf("topics are missing, or this user may not see them: %s; 'worker topics create' makes them, docs/security.md lists what a worker must be allowed", strings.Join(missing, ", "))
	}
	if !w.ephemeral {
		w.warnOfTopics(ctx)
	}
	unsuitable, err := eventually(ctx, w, "redis", w.store.Unsuitable)
	if err = errors.Join(err, unsuitable); err != nil {
		return err
	}
	warnings, err := eventually(ctx, w, "redis", w.store.Warnings)
	if err != nil {
		return err
	}
	for _, warning := range warnings {
		if !w.ephemeral {
			w.logger.Warn(warning)
		}
	}
	changed, err := eventually(ctx, w, "redis", func(ctx context.Context) (error, error) {
		err := w.take(ctx, w.engine.Catalog())
		if changes := (store.FeaturesChanged)(nil); errors.As(err, &changes) {
			return changes, nil
		}
		return nil, err
	})
	return errors.Join(err, changed)
}

const longestWait = 5 * time.Second

// eventually tries until try succeeds or ctx ends.
func eventually[T any](ctx context.Context, w *worker, dependency string, try func(context.Context) (T, error)) (T, error) {
	wait := 100 * time.Millisecond
	for {
		value, err := try(ctx)
		if err == nil {
			return value, nil
		}
		w.logger.Warn("waiting for "+dependency, "error", err)
		w.metrics.DependencyRetried(dependency)
		select {
		case <-ctx.Done():
			return value, context.Cause(ctx)
		case <-time.After(wait/2 + rand.N(wait/2)):
		}
		wait = min(2*wait, longestWait)
	}
}

// catalogPoll is how often the catalogue file is looked at.
const catalogPoll = 2 * time.Second

// watch takes new versions of the catalogue file until ctx ends.
func (w *worker) watch(ctx context.Context, path string, reload <-chan os.Signal) {
	catalog.Watch(ctx, path, w.engine.Catalog().Version, catalogPoll, reload, w.logger, func(next *balance.Catalog) error {
		return w.take(ctx, next)
	})
}

const tracesTimeout = 5 * time.Second

// startTracing has spans sent where the environment asks for it. end sends those that are left.
func (w *worker) startTracing(ctx context.Context) (end func(), err error) {
	if !ops.TracingWanted() {
		return func() {}, nil
	}
	stop, err := ops.StartTracing(ctx)
	if err != nil {
		return nil, err
	}
	return func() {
		ending, cancel := context.WithTimeout(context.WithoutCancel(ctx), tracesTimeout)
		defer cancel()
		if err := stop(ending); err != nil {
			w.logger.Warn("the last spans could not be sent", "error", err)
		}
	}, nil
}

const evictionsEvery = 15 * time.Second

// watchEvictions keeps the metric of evicted keys up to date until ctx ends.
func (w *worker) watchEvictions(ctx context.Context) {
	for {
		if evicted, err := w.store.EvictedKeys(ctx); err == nil {
			w.metrics.SetEvicted(evicted)
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(evictionsEvery):
		}
	}
}

// take puts a catalogue in force.
func (w *worker) take(ctx context.Context, next *balance.Catalog) error {
	known, err := w.store.RegisterFeatures(ctx, next)
	if err != nil {
		return err
	}
	w.engine.SetCatalog(known)
	w.metrics.SetCatalog(known.Version)
	return nil
}
