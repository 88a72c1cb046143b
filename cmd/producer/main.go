// Command producer sends checks and commands, and shows what comes of them: see
// `producer --help`.
package main

import (
	"errors"
	"os"

	"tollgate/internal/client"
	"tollgate/internal/settings"
)

type cli struct {
	settings.File
	settings.Tools
	Check    checkCommand    `cmd:"" help:"Send one check, wait for its result and print it. Exit code 0: allowed, 3: denied, 1: error, 4: no answer in time."`
	Send     sendCommand     `cmd:"" help:"Send check requests, one per line of JSON."`
	Command  commandCommand  `cmd:"" help:"Send one command, wait for its result and print it."`
	Attach   attachCommand   `cmd:"" help:"Attach a plan (plan.attach)."`
	Grant    grantCommand    `cmd:"" help:"Grant a balance (balance.grant)."`
	Track    trackCommand    `cmd:"" help:"Record usage without asking (usage.track)."`
	Lock     lockCommand     `cmd:"" help:"Reserve an amount: a check that holds what it takes. Exit codes as of check."`
	Finalize finalizeCommand `cmd:"" help:"Spend what a lock holds, or give it back (lock.finalize)."`
	Extend   extendCommand   `cmd:"" help:"Hold a lock longer (lock.extend)."`
	Balances balancesCommand `cmd:"" help:"Show a customer's balances, locks, plans and entities (customer.get)."`
	Load     loadCommand     `cmd:"" help:"Send checks at a steady rate and measure how long their results take."`
	Tail     tailCommand     `cmd:"" help:"Follow a topic."`
	Import   importCommand   `cmd:"" help:"Create customers from a CSV or JSON lines file, with their plans, entities and grants."`

	ReplayDeadLetters replayCommand `cmd:"" help:"Send dead letters back to where they came from, byte for byte, once what kept them from being read is mended."`
}

// The exit codes, beside settings.ExitUsage.
const (
	exitError    settings.ExitCode = 1
	exitDenied   settings.ExitCode = 3
	exitNoAnswer settings.ExitCode = 4
)

const description = `The client side: sends checks and commands over Kafka and shows what comes of them.

Examples:

  producer check --customer acme --feature messages --send-event
  producer attach --customer acme --plan pro
  producer balances --customer acme
  producer lock --customer acme --feature messages --required-balance 20 --lock-id job-17 --expires-in 15m
  producer finalize job-17 --customer acme --value 12
  producer tail usage --customer acme
  producer import customers.csv
  producer load --rate 1000 --duration 10s`

func main() {
	os.Exit(settings.Run(&cli{}, os.Args[1:], "producer", description, func(err error) int {
		if errors.Is(err, client.ErrNoAnswer) {
			return int(exitNoAnswer)
		}
		return int(exitError)
	}))
}
