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
	for loaded := false; ; loaded = true {
		text, err := succeedScript.EvalSha(ctx, s.client, []string{s.lifetimesKey()}, partition, before, next.ID, next.Group).Text()
		if !loaded && redis.HasErrorPrefix(err, "NOSCRIPT") {
			var client redis.Scripter
			if client, err = s.clientFor(ctx, s.lifetimesKey()); err == nil {
				err = succeedScript.load(ctx, client)
			}
			if err == nil {
				continue
			}
		}
		if err != nil {
			return Lifetime{}, fmt.Errorf("note the lifetime of %s: %w", partition, err)
		}
		return readLifetime(text), nil
	}
}

func readLifetime(text string) Lifetime {
	id, group, _ := strings.Cut(text, " ")
	return Lifetime{id, group}
}
