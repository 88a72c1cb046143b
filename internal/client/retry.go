package client

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync/atomic"
	"time"

	"tollgate/internal/retry"
)

// pauses is how often something is tried again that may pass.
var pauses = retry.Policy{First: 50 * time.Millisecond, Longest: 5 * time.Second}

// outage tells of errors that pass, once for all who meet them at the same time.
type outage struct{ met atomic.Int32 }

// errNothingCame says that a context ended while nothing was wrong.
var errNothingCame = errors.New("nothing came")

// insist tries until it succeeds. An error that stays ends it with a *Refusal; one that may pass is logged once
// and tried again, ever less often. If ctx ends it fails with the last error there was, or with errNothingCame.
func (c *Client) insist(ctx context.Context, to access, outage *outage, try func() error) error {
	var last error
	for n := 0; ; n++ {
		err := try()
		if err == nil {
			if last != nil && outage.met.Add(-1) == 0 {
				c.logger.Info("Kafka answers again")
			}
			return nil
		}
		if hasEnded(ctx, err) {
			break
		}
		if refusal, ok := errors.AsType[*Refusal](err); ok {
			return refusal
		}
		if refusal := c.refusal(ctx, to, err); refusal != nil {
			return refusal
		}
		if ctx.Err() != nil {
			break
		}
		if last == nil && outage.met.Add(1) == 1 {
			c.logger.Warn(fmt.Sprintf("cannot %v, trying again", to), "error", err)
		}
		last = err
		retry.Pause(ctx, pauses, n)
	}
	if last == nil {
		return fmt.Errorf("%w: %w", errNothingCame, context.Cause(ctx))
	}
	outage.met.Add(-1)
	return fmt.Errorf("cannot %v: %w: %w", to, last, context.Cause(ctx))
}

// deadlineSlack is how much earlier than a context its connection may time out.
const deadlineSlack = 100 * time.Millisecond

// hasEnded says whether an error only tells that ctx ended. A connection has the deadline of its context, and may see
// it first; then the context is waited for.
func hasEnded(ctx context.Context, err error) bool {
	var timeout net.Error
	if deadline, ok := ctx.Deadline(); ok && time.Until(deadline) < deadlineSlack && errors.As(err, &timeout) && timeout.Timeout() {
		<-ctx.Done()
	}
	return ctx.Err() != nil
}
