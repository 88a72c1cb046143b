package settings

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/alecthomas/kong"
)

// ExitUsage is the exit code for settings that need mending.
const ExitUsage = 2

// ExitCode is an error that has said all there is to say, but for its code.
type ExitCode int

func (e ExitCode) Error() string { return fmt.Sprintf("exit code %d", int(e)) }

// Run parses a program's arguments, runs the command that they select until it is done
// or a signal asks it to stop, and returns the exit code. codeOf gives that of an error
// that is no ExitCode.
func Run(cli any, args []string, name, description string, codeOf func(error) int) int {
	ctx, err := Parse(cli, args, kong.Name(name), kong.Description(description), kong.Vars{"kafka_client_id": "tollgate-" + name})
	if err != nil {
		fmt.Fprintln(os.Stderr, name+":", err)
		return ExitUsage
	}
	stopping, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	// A second signal ends the process at once.
	context.AfterFunc(stopping, stop)
	ctx.BindTo(stopping, (*context.Context)(nil))
	var code ExitCode
	switch err := ctx.Run(); {
	case err == nil:
		return 0
	case errors.As(err, &code):
		return int(code)
	default:
		fmt.Fprintln(os.Stderr, name+":", err)
		return codeOf(err)
	}
}
