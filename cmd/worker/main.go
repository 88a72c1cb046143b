// Command worker decides check requests: see `worker --help`.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/alecthomas/kong"

	"tollgate/internal/settings"
)

type cli struct {
	settings.File
	Dev     devCommand     `cmd:"" help:"Try it: an embedded Kafka and Redis, the topics, the example catalogue, demo customers and demo checks."`
	Run     runCommand     `cmd:"" help:"Production: join the consumer group and serve until SIGTERM."`
	Catalog catalogCommand `cmd:"" help:"Work with catalogue files."`
	Topics  topicsCommand  `cmd:"" help:"Work with topics."`
	Version versionCommand `cmd:"" help:"Print the version, the commit and the Go version."`
}

const exitUsage = 2

// exitCode is an error that has said all there is to say, but for its code.
type exitCode int

func (e exitCode) Error() string { return fmt.Sprintf("exit code %d", int(e)) }

func main() {
	os.Exit(run(os.Args[1:]))
}

func run(args []string) int {
	ctx, err := settings.Parse(&cli{}, args,
		kong.Name("worker"),
		kong.Description("Decides balance checks: requests in from Kafka, an atomic check-and-decrement in Redis, results and usage events out to Kafka.\n\nBegin with 'worker dev'. 'worker COMMAND --help' lists the settings of a command; each is also an environment variable, TOLLGATE_ and its name in capitals."),
	)
	if err != nil {
		fmt.Fprintln(os.Stderr, "worker:", err)
		return exitUsage
	}
	stopping, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	// A second signal ends the process at once.
	context.AfterFunc(stopping, stop)
	ctx.BindTo(stopping, (*context.Context)(nil))
	var code exitCode
	switch err := ctx.Run(); {
	case err == nil:
		return 0
	case errors.As(err, &code):
		return int(code)
	default:
		fmt.Fprintln(os.Stderr, "worker:", err)
		return 1
	}
}
