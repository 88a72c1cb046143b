// Package retry tries again what failed, with pauses that grow and that differ from those of others who
// try the same.
package retry

import (
	"context"
	"log/slog"
	"math/rand/v2"
	"time"

	"github.com/cenkalti/backoff/v5"
)

// Policy is how often something is tried again, and who is told.
type Policy struct {
	// First is about how long the first pause is; each further one is twice as long, up to Longest.
	First, Longest time.Duration
	// Failed is told of every failure that is followed by another try, and how many came before it. May be nil.
	Failed func(err error, before int)
}

// Permanent says of an error that no further try would help: Do returns it, unwrapped.
func Permanent(err error) error { return backoff.Permanent(err) }

// Do tries until try succeeds, it fails with a Permanent error, or ctx ends. It fails with the cause of ctx
// in the last case.
func Do(ctx context.Context, policy Policy, try func() error) error {
	failures := 0
	_, err := backoff.Retry(ctx, func() (struct{}, error) { return struct{}{}, try() },
		backoff.WithMaxElapsedTime(0),
		backoff.WithBackOff(&backoff.ExponentialBackOff{
			InitialInterval: policy.First, Multiplier: 2, RandomizationFactor: 0.5, MaxInterval: policy.Longest,
		}),
		backoff.WithNotify(func(err error, _ time.Duration) {
			if policy.Failed != nil {
				policy.Failed(err, failures)
			}
			failures++
		}))
	return err
}

// Wait is about how long Do waits after a failure before which there were so many others.
func Wait(policy Policy, before int) time.Duration {
	wait := min(policy.First<<min(before, 16), policy.Longest)
	return wait/2 + rand.N(wait+1)
}

// Pause waits as Do does after a failure before which there were so many others, or until ctx ends. It is for
// what cannot be tried again in one place.
func Pause(ctx context.Context, policy Policy, before int) {
	timer := time.NewTimer(Wait(policy, before))
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	}
}

// Rarely picks failures ever less often: those before which there were 0, 1, 2, 4, 8, … others. A log that
// tells of these alone says that it goes on, and is not flooded.
func Rarely(before int) bool { return before&(before-1) == 0 }

// Log warns of a failure, ever less often.
func Log(logger *slog.Logger, message string, err error, before int, args ...any) {
	if Rarely(before) {
		logger.Warn(message, append(args, "error", err, "try", before+1)...)
	}
}
