package main

import (
	"context"
	"os"
	"os/signal"
	"runtime/debug"
	"slices"
	"syscall"

	"tollgate/internal/balance"
	"tollgate/internal/catalog"
	"tollgate/internal/settings"
)

type runCommand struct {
	Kafka     settings.Kafka `embed:"" prefix:"kafka-" group:"Kafka"`
	Redis     settings.Redis `embed:"" prefix:"redis-" group:"Redis"`
	Catalog   string         `placeholder:"FILE" group:"Deciding" help:"Catalogue of features and plans (YAML); read again on SIGHUP and when it changes."`
	serving   `kong:"embed,set='log_level=info',set='compression=lz4'"`
	pageFlags `embed:"" set:"console=false"`

	rules *balance.Catalog
}

// Check notes what is wrong with the settings, the catalogue among them.
func (c *runCommand) Check(problems *settings.Problems) {
	c.Kafka.Check(problems)
	c.Redis.Check(problems)
	c.serving.check(problems)
	c.rules = loadCatalog(c.Catalog, problems)
}

func loadCatalog(path string, problems *settings.Problems) *balance.Catalog {
	if path == "" {
		problems.Missing("catalog", "the catalogue file; deploy/catalog.yaml is an example")
		return nil
	}
	rules, err := catalog.Load(path)
	if err != nil {
		problems.Add("--catalog: %v", err)
	}
	return rules
}

const (
	garbagePercent = 1000
	memoryBytes    = 160 << 20
)

// collectLess trades memory, of which a worker needs little, for time: garbage is collected
// at eleven times what is in use, but sooner when memory grows. GOGC and GOMEMLIMIT have the
// last word.
func collectLess() {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(garbagePercent)
	}
	if os.Getenv("GOMEMLIMIT") == "" {
		debug.SetMemoryLimit(memoryBytes)
	}
}

func (c *runCommand) Run(ctx context.Context) error {
	collectLess()
	logger := c.Log.Logger(os.Stderr)
	client := c.Redis.Client(logger)
	defer client.Close()
	w, err := c.newWorker(c.Kafka.Broker(logger, slices.Concat(c.Topics.Names().All(), c.ReplyTopics)), client, c.Redis.StoreOptions(), c.rules, c.pageFlags, logger)
	if err != nil {
		return err
	}
	logger.Info("serving", "http", w.http.Addr(), "catalog", c.rules.Version)
	reload := make(chan os.Signal, 1)
	signal.Notify(reload, syscall.SIGHUP)
	defer signal.Stop(reload)
	watching, stop := context.WithCancel(ctx)
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		w.watch(watching, c.Catalog, reload)
	}()
	err = w.serve(ctx)
	stop()
	<-watched
	logger.Info("stopped")
	return err
}
