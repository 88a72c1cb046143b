package stream

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"time"

	"tollgate/internal/retry"
)

// patience is how often something is tried again that Kafka may do later.
var patience = retry.Policy{First: 50 * time.Millisecond, Longest: 5 * time.Second}

// insistence is how a partition's work is tried again: everybody who should know is told.
type insistence struct {
	progress *progress
	observer Observer
	logger   *slog.Logger
	longest  time.Duration // pause, 0 for that of patience
}

// on tries until it succeeds, the partition is lost, the error is permanent or ctx ends.
func (i insistence) on(ctx context.Context, complaint string, try func() error) error {
	policy := patience
	policy.Longest = cmp.Or(i.longest, policy.Longest)
	policy.Failed = func(err error, before int) {
		retry.Log(i.logger, complaint, err, before)
		i.observer.Retried()
		i.progress.fail(err)
	}
	return retry.Do(ctx, policy, func() error {
		err := try()
		if errors.Is(err, ErrPartitionLost) {
			return retry.Permanent(err)
		}
		return err
	})
}
