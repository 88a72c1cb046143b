// Command worker decides check requests: see `worker --help`.
package main

import (
	"os"

	"tollgate/internal/settings"
)

type cli struct {
	settings.File
	settings.Tools
	Dev     devCommand     `cmd:"" help:"Try it: an embedded Kafka and Redis, the topics, the example catalogue, demo customers and demo checks."`
	Run     runCommand     `cmd:"" help:"Production: join the consumer group and serve until SIGTERM."`
	Catalog catalogCommand `cmd:"" help:"Work with catalogue files."`
	Topics  topicsCommand  `cmd:"" help:"Work with topics."`
	Version versionCommand `cmd:"" help:"Print the version, the commit and the Go version."`
}

const description = `Decides balance checks: requests in from Kafka, an atomic check-and-decrement in Redis, results and usage events out to Kafka.

Begin with 'worker dev'. 'worker COMMAND --help' lists the settings of a command; each is also an environment variable, TOLLGATE_ and its name in capitals.

Examples:

  worker dev
  worker catalog check catalog.yaml
  worker topics create --kafka-brokers kafka:9092 --partitions 12 --replication-factor 3
  worker run --kafka-brokers kafka:9092 --redis-addrs redis:6379 --catalog catalog.yaml
  worker run --config worker.yaml --redis-addrs node-1:6379,node-2:6379,node-3:6379`

func main() {
	os.Exit(settings.Run(&cli{}, os.Args[1:], "worker", description, func(error) int { return 1 }))
}
