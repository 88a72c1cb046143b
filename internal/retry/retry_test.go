package retry

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"
)

var errPassing, errLasting = errors.New("passing"), errors.New("lasting")

func TestDoTriesUntilItSucceeds(t *testing.T) {
	var told []int
	tries := 0
	policy := Policy{First: time.Microsecond, Longest: time.Millisecond, Failed: func(err error, before int) {
		if !errors.Is(err, errPassing) {
			t.Errorf("told of %v", err)
		}
		told = append(told, before)
	}}
	err := Do(t.Context(), policy, func() error {
		if tries++; tries < 4 {
			return errPassing
		}
		return nil
	})
	if err != nil || tries != 4 || !slices.Equal(told, []int{0, 1, 2}) {
		t.Errorf("%v after %d tries, told of %v", err, tries, told)
	}
}

func TestDoStopsAtAPermanentError(t *testing.T) {
	tries := 0
	err := Do(t.Context(), Policy{First: time.Microsecond}, func() error {
		tries++
		return Permanent(errLasting)
	})
	if err != errLasting || tries != 1 { //nolint:errorlint // the very error, not one around it
		t.Errorf("%v after %d tries", err, tries)
	}
}

func TestDoEndsWithItsContext(t *testing.T) {
	cause := errors.New("the cause")
	ctx, cancel := context.WithCancelCause(t.Context())
	err := Do(ctx, Policy{First: time.Hour, Longest: time.Hour, Failed: func(error, int) { cancel(cause) }}, func() error { return errPassing })
	if !errors.Is(err, cause) {
		t.Errorf("got %v", err)
	}
}

func TestRarelyPicksEverFewer(t *testing.T) {
	var picked []int
	for n := range 100 {
		if Rarely(n) {
			picked = append(picked, n)
		}
	}
	if want := []int{0, 1, 2, 4, 8, 16, 32, 64}; !slices.Equal(picked, want) {
		t.Errorf("got %v", picked)
	}
}
