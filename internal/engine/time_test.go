package engine_test

import (
	"fmt"
	"testing"
	"time"

	"tollgate/internal/balance"
	"tollgate/internal/wire"
)

// TestABucketThatWasIdleForTwoDaysIsFull is fault 5: behind 1,000 missed resets the credit that was to roll
// over was lost.
func TestABucketThatWasIdleForTwoDaysIsFull(t *testing.T) {
	for _, idle := range []time.Duration{48 * time.Hour, 5 * 365 * 24 * time.Hour} {
		r := newRig(t, `
features:
  - {id: calls, type: metered, precision: 0}
plans:
  - id: free
    default: true
    items:
      - {feature_id: calls, included: 1, reset: {interval: minute}, rollover: {max: 1440, expiry: never}}
`)
		r.now = r.now.Add(idle)
		for _, step := range []struct {
			units int
			want  balance.Code
		}{{1442, balance.InsufficientFunds}, {1441, balance.Included}, {1, balance.InsufficientFunds}} {
			result := r.check(fmt.Sprintf(`{"customer_id":"acme","feature_id":"calls","required_balance":%d,"send_event":true}`, step.units))
			if result.Code != step.want {
				t.Errorf("idle for %v, %d: %s, want %s", idle, step.units, result.Code, step.want)
			}
		}
		r.now = r.now.Add(time.Hour)
		if left := r.remaining("calls"); left != "60" {
			t.Errorf("an hour later %s are left, want 60", left)
		}
	}
}

// TestARequestIsJudgedByTheTimeAtWhichItIsDecided is fault 13: a batch's clock was read once, and kept
// while Redis was away.
func TestARequestIsJudgedByTheTimeAtWhichItIsDecided(t *testing.T) {
	const catalogue = `
features:
  - {id: calls, type: metered, precision: 0}
plans:
  - id: free
    default: true
    items:
      - {feature_id: calls, included: 1, reset: {interval: hour}}
`
	const away = 90 * time.Minute
	ask := `{"customer_id":"acme","feature_id":"calls","send_event":true}`
	for _, c := range []struct {
		name  string
		tries int
		want  balance.Code
		until time.Duration // expires-at, from the beginning
		use   bool          // what the first period has
	}{
		{"a deadline that passes", 2, balance.DeadlineExceeded, time.Hour, false},
		{"a deadline that has passed not yet", 2, balance.Included, away + time.Second, false},
		{"a deadline that passes between two tries", 5, balance.DeadlineExceeded, away - time.Second, false},
		{"a reset", 3, balance.Included, 0, true},
		{"a Redis that is there", 0, balance.InsufficientFunds, 0, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newRig(t, catalogue)
			if c.use {
				r.check(ask)
			}
			var headers []string
			if c.until > 0 {
				headers = []string{wire.HeaderExpiresAt, fmt.Sprint(r.now.Add(c.until).UnixMilli())}
			}
			began := r.now
			r.failingAtFirst(c.tries, func() { r.now = r.now.Add(away / time.Duration(c.tries)) })
			result := r.check(ask, headers...)
			if result.Code != c.want || result.EvaluatedAt != r.now.UnixMilli() {
				t.Errorf("%s at %d, want %s at %d", result.Code, result.EvaluatedAt, c.want, r.now.UnixMilli())
			}
			if c.tries > 0 && r.now.Sub(began) != away {
				t.Errorf("Redis was away for %v", r.now.Sub(began))
			}
		})
	}
}
