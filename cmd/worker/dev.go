package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"tollgate/deploy"
	"tollgate/internal/balance"
	"tollgate/internal/catalog"
	"tollgate/internal/client"
	"tollgate/internal/embedded"
	"tollgate/internal/kafka"
	"tollgate/internal/settings"
	"tollgate/internal/store"
	"tollgate/internal/terminal"
)

type devCommand struct {
	DevKafkaAddr string `default:"127.0.0.1:9092" group:"Dev" help:"Loopback address of the embedded Kafka; port 0 takes any that is free."`
	DevRedisAddr string `default:"127.0.0.1:6379" group:"Dev" help:"Loopback address of the embedded Redis."`
	Once         bool   `group:"Dev" help:"Exit after the demo: 0 where every decision was the expected one."`
	Catalog      string `placeholder:"FILE" group:"Deciding" help:"Another catalogue than the example; then there are no demo customers and no demo."`
	serving      `kong:"embed,set='log_level=warn',set='compression=none'"`
	pageFlags    `embed:"" set:"console=true"`

	rules *balance.Catalog
	addr  string // of the embedded Kafka
}

// Check notes what is wrong with the settings.
func (c *devCommand) Check(problems *settings.Problems) {
	settings.CheckAddress("dev-kafka-addr", c.DevKafkaAddr, problems)
	settings.CheckAddress("dev-redis-addr", c.DevRedisAddr, problems)
	c.serving.check(problems)
	if c.Catalog != "" {
		c.rules = loadCatalog(c.Catalog, problems)
		return
	}
	rules, err := catalog.Parse(deploy.Catalog)
	if err != nil {
		problems.Add("the example catalogue: %v", err)
	}
	c.rules = rules
}

// Two records of one customer can be seen to share a partition, and others not to.
const devPartitions = 4

const devRetention = 24 * time.Hour

func (c *devCommand) Run(ctx context.Context) error {
	logger := c.Log.Logger(os.Stderr)
	kafkaServer, err := embedded.StartBroker(c.DevKafkaAddr)
	if err != nil {
		return takenAddress(err, "dev-kafka-addr")
	}
	defer kafkaServer.Close()
	redisServer, err := embedded.StartRedis(ctx, c.DevRedisAddr)
	if err != nil {
		return takenAddress(err, "dev-redis-addr")
	}
	defer redisServer.Close()

	broker := (&settings.Kafka{Brokers: []string{kafkaServer.Addr}, ClientID: "tollgate-worker"}).Broker(logger, nil)
	var topics []kafka.Topic
	for _, name := range slices.Concat(c.Topics.Names().All(), c.ReplyTopics) {
		topics = append(topics, kafka.Topic{Name: name, Partitions: devPartitions, ReplicationFactor: 1, Retention: devRetention})
	}
	if _, err := broker.CreateTopics(ctx, topics); err != nil {
		return err
	}
	redisClient := (&settings.Redis{Addrs: []string{redisServer.Addr}}).Client(logger)
	defer redisClient.Close()
	w, err := c.newWorker(broker, redisClient, store.Options{Prefix: "tollgate:"}, c.rules, c.pageFlags, logger)
	if err != nil {
		return err
	}
	w.ephemeral = true
	c.introduce(kafkaServer, redisServer, w)

	serving, stop := context.WithCancel(ctx)
	group, serving := errgroup.WithContext(serving)
	group.Go(func() error { return w.serve(serving) })
	var demoErr error
	group.Go(func() error {
		demoErr = c.demo(serving, broker, logger)
		if c.Once || demoErr != nil {
			stop()
		}
		return nil
	})
	err = group.Wait()
	stop()
	if ctx.Err() != nil { // asked to stop, in the middle of the demo perhaps
		demoErr = nil
	}
	return errors.Join(err, demoErr)
}

func takenAddress(err error, flag string) error {
	if errors.Is(err, embedded.ErrAddressTaken) {
		return fmt.Errorf("%w; choose another with --%s, 127.0.0.1:0 takes any that is free", err, flag)
	}
	if errors.Is(err, embedded.ErrNotLoopback) {
		return fmt.Errorf("--%s: %w", flag, err)
	}
	return err
}

func (c *devCommand) introduce(broker *embedded.Broker, redisServer *embedded.Redis, w *worker) {
	paint := terminal.NewPaint(os.Stdout)
	what := "the example"
	if c.Catalog != "" {
		what = c.Catalog
	}
	fmt.Println(paint.Strong("Tollgate") + " on embedded servers; what they hold is gone when it ends.")
	fmt.Printf("\n  Kafka      %s, in this process, topics %s … with %d partitions each\n", broker.Addr, c.Topics.Checks, devPartitions)
	fmt.Printf("  Redis      %s, %s\n", redisServer.Addr, redisServer.Kind)
	if c.Console {
		fmt.Printf("  Console    http://%s/\n", w.http.Addr())
	}
	fmt.Printf("  HTTP       http://%s/metrics, /readyz, /healthz\n", w.http.Addr())
	fmt.Printf("  Catalogue  %s, %d features, %d plans\n\n", what, len(c.rules.Features), len(c.rules.Plans))
	c.addr = broker.Addr
}

// demo seeds the demo customers and shows some decisions.
func (c *devCommand) demo(ctx context.Context, broker kafka.Broker, logger *slog.Logger) error {
	if c.Catalog != "" {
		c.invite()
		return nil
	}
	d := demo{client: client.New(broker, logger), topics: c.Topics.Names(), paint: terminal.NewPaint(os.Stdout)}
	ctx, cancel := context.WithTimeout(ctx, demoTimeout)
	defer cancel()
	if err := d.seed(ctx); err != nil {
		return fmt.Errorf("demo customers: %w", err)
	}
	unexpected, err := d.run(ctx)
	if err != nil {
		return fmt.Errorf("demo: %w", err)
	}
	if unexpected > 0 {
		return fmt.Errorf("demo: %d decisions were not the expected ones", unexpected)
	}
	if !c.Once {
		c.invite()
	}
	return nil
}

// invite prints what to try next.
func (c *devCommand) invite() {
	paint := terminal.NewPaint(os.Stdout)
	brokers := ""
	if c.addr != defaultBrokers {
		brokers = " --kafka-brokers " + c.addr
	}
	fmt.Println(paint.Strong("\nTry next, in another terminal:\n"))
	for _, line := range []string{
		"go run ./cmd/producer balances --customer acme" + brokers,
		"go run ./cmd/producer check --customer acme --feature messages --required-balance 2 --send-event" + brokers,
		"go run ./cmd/producer tail usage" + brokers,
		"",
		`echo 'acme:{"customer_id":"acme","feature_id":"messages","send_event":true}' |`,
		"  kcat -P -b " + c.addr + " -t " + c.Topics.Checks + " -K: -X partitioner=murmur2_random -H request-id=my-first",
		"kcat -C -b " + c.addr + " -t " + c.Topics.CheckResults + " -o beginning -e -q",
		"kcat -C -b " + c.addr + " -t " + c.Topics.UsageEvents + " -o beginning -e -q",
	} {
		fmt.Println("  " + line)
	}
	fmt.Println(paint.Faint("\nServing. Ctrl-C ends it."))
}

// defaultBrokers is where `producer` looks where it is not told.
const defaultBrokers = "127.0.0.1:9092"

const demoTimeout = 60 * time.Second

var errUnexpected = errors.New("an unexpected answer")

func header(id string) []kafka.Header {
	return []kafka.Header{client.Header("request-id", id)}
}
