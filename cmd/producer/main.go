// Command producer sends checks and commands, and shows what comes of them: see
// `producer --help`.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/alecthomas/kong"

	"tollgate/internal/client"
	"tollgate/internal/settings"
)

type cli struct {
	settings.File
	Check    checkCommand    `cmd:"" help:"Send one check, wait for its result and print it. Exit code 0: allowed, 3: denied, 1: error, 4: no answer in time."`
	Send     sendCommand     `cmd:"" help:"Send check requests, one per line of JSON."`
	Command  commandCommand  `cmd:"" help:"Send one command, wait for its result and print it."`
	Attach   attachCommand   `cmd:"" help:"Attach a plan (plan.attach)."`
	Grant    grantCommand    `cmd:"" help:"Grant a balance (balance.grant)."`
	Track    trackCommand    `cmd:"" help:"Record usage without asking (usage.track)."`
	Balances balancesCommand `cmd:"" help:"Show a customer's balances, plans and entities (customer.get)."`
	Load     loadCommand     `cmd:"" help:"Send checks at a steady rate and measure how long their results take."`
	Tail     tailCommand     `cmd:"" help:"Follow a topic."`
}

// The exit codes.
const (
	exitError    = 1
	exitUsage    = 2
	exitDenied   = 3
	exitNoAnswer = 4
)

// exitCode is an error that has said all there is to say, but for its code.
type exitCode int

func (e exitCode) Error() string { return fmt.Sprintf("exit code %d", int(e)) }

func main() {
	os.Exit(run(os.Args[1:]))
}

func run(args []string) int {
	ctx, err := settings.Parse(&cli{}, args,
		kong.Name("producer"),
		kong.Description("The client side: sends checks and commands over Kafka and shows what comes of them.\n\nExamples:\n\n  producer check --customer acme --feature messages --send-event\n  producer attach --customer acme --plan pro\n  producer balances --customer acme\n  producer tail usage --customer acme\n  producer load --rate 1000 --duration 10s"),
	)
	if err != nil {
		fmt.Fprintln(os.Stderr, "producer:", err)
		return exitUsage
	}
	stopping, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(stopping, stop)
	ctx.BindTo(stopping, (*context.Context)(nil))
	var code exitCode
	err = ctx.Run()
	switch {
	case err == nil:
		return 0
	case errors.As(err, &code):
		return int(code)
	}
	fmt.Fprintln(os.Stderr, "producer:", err)
	if errors.Is(err, client.ErrNoAnswer) {
		return exitNoAnswer
	}
	return exitError
}
