package store

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/redis/go-redis/v9"
)

// Lifetime is a time within which the committed offset of a group's partition only moves
// forward: what a ledger knows of records counts within one (docs/adr/0008).
type Lifetime struct{ ID, Group string }

func (s *Store) lifetimesKey() string { return s.prefix + "lifetimes" }

// Lifetime returns the lifetime in which records of a partition were decided last, the zero
// Lifetime where none is noted.
func (s *Store) Lifetime(ctx context.Context, partition string) (Lifetime, error) {
	text, err := s.client.HGet(ctx, s.lifetimesKey(), partition).Result()
	if err != nil && !errors.Is(err, redis.Nil) {
		return Lifetime{}, fmt.Errorf("read the lifetime of %s: %w", partition, err)
	}
	return readLifetime(text), nil
}

var succeedScript = newScript("succeed")

// Succeed notes a lifetime where none is noted or the one with the id before, and returns what
// is noted then: next, or what stood in its way.
func (s *Store) Succeed(ctx context.Context, partition string, next Lifetime, before string) (Lifetime, error) {
	text, err := s.runOnKey(ctx, succeedScript, s.lifetimesKey(), partition, before, next.ID, next.Group).Text()
	if err != nil {
		return Lifetime{}, fmt.Errorf("note the lifetime of %s: %w", partition, err)
	}
	return readLifetime(text), nil
}

// runOnKey runs a script on one key, and gives Redis the script first if it does not have it.
func (s *Store) runOnKey(ctx context.Context, run *script, key string, args ...any) *redis.Cmd {
	answer := run.EvalSha(ctx, s.client, []string{key}, args...)
	if !redis.HasErrorPrefix(answer.Err(), "NOSCRIPT") {
		return answer
	}
	client, err := s.clientFor(ctx, key)
	if err == nil {
		err = run.load(ctx, client)
	}
	if err != nil {
		answer.SetErr(err)
		return answer
	}
	return run.EvalSha(ctx, s.client, []string{key}, args...)
}

func readLifetime(text string) Lifetime {
	id, group, _ := strings.Cut(text, " ")
	return Lifetime{id, group}
}
