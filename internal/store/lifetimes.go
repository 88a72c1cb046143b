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

// succeedScript notes a lifetime in the place of the one before it.
//
// KEYS[1] = tollgate:lifetimes, a hash of "<id> <group>" by partition
// ARGV[1] the partition, ARGV[2] the id before, ARGV[3] the next id, ARGV[4] its group
// Returns what is noted then.
// Invariant: a lifetime that was succeeded by one that does not name it never comes back.
var succeedScript = redis.NewScript(`
local noted = redis.call('HGET', KEYS[1], ARGV[1])
local id = noted and string.match(noted, '^[^ ]+')
if id == ARGV[3] or (id and id ~= ARGV[2]) then return noted end
local next = ARGV[3] .. ' ' .. ARGV[4]
redis.call('HSET', KEYS[1], ARGV[1], next)
return next
`)

// Succeed notes a lifetime where none is noted or the one with the id before, and returns what
// is noted then: next, or what stood in its way.
func (s *Store) Succeed(ctx context.Context, partition string, next Lifetime, before string) (Lifetime, error) {
	for loaded := false; ; loaded = true {
		text, err := succeedScript.EvalSha(ctx, s.client, []string{s.lifetimesKey()}, partition, before, next.ID, next.Group).Text()
		if !loaded && redis.HasErrorPrefix(err, "NOSCRIPT") {
			err = succeedScript.Load(ctx, s.client).Err()
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
