// Package store keeps the customers' state in Redis. Every step is one call of
// one Lua script (scripts/*.lua), with one Go method per script; calls run
// together in pipelines. It knows nothing of Kafka but the name of a record.
package store

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
)

// Store runs scripts against Redis.
type Store struct {
	client       redis.UniversalClient
	prefix       string
	waitReplicas int
	waitTimeout  time.Duration
}

// Options are what a Store needs beside its client.
type Options struct {
	// Prefix begins every key.
	Prefix string
	// WaitReplicas is how many replicas must have the writes of a batch before
	// Run returns; 0: none.
	WaitReplicas int
	// WaitTimeout bounds that waiting.
	WaitTimeout time.Duration
}

// ErrPrefix says that a key prefix contains a brace, which would move the hash tag.
var ErrPrefix = errors.New("the key prefix must not contain { or }")

// ErrTooFewReplicas says that a batch was applied but has not reached as many
// replicas as it must. Running it again is safe.
var ErrTooFewReplicas = errors.New("too few replicas acknowledged the writes")

// New makes a store on a client that the caller closes.
func New(client redis.UniversalClient, options Options) (*Store, error) {
	if strings.ContainsAny(options.Prefix, "{}") {
		return nil, ErrPrefix
	}
	return &Store{client, options.Prefix, options.WaitReplicas, options.WaitTimeout}, nil
}

// script is one of scripts/*.lua.
type script struct {
	*redis.Script
	name string
}

func newScript(name string) *script { return &script{mustScript(name), name} }

// Call is one run of a script, not yet sent.
type Call struct {
	script  *script
	command []any // EVALSHA, hash, number of keys, keys, arguments
	common  []any // of command, the arguments that all scripts have
}

// Command is what is sent to Redis, for those who measure it.
func (c *Call) Command() []any { return c.command }

// Load gives Redis the call's script.
func (c *Call) Load(ctx context.Context, client redis.Scripter) error {
	if err := c.script.Load(ctx, client).Err(); err != nil {
		return fmt.Errorf("load redis script %s: %w", c.script.name, err)
	}
	return nil
}

// Reply is what a call returned.
type Reply struct {
	outcome []byte
	// Replayed says that the record was processed before, and this is the outcome
	// of that time.
	Replayed bool
	// Stale says that a later generation of the consumer group has processed and
	// committed the record: the caller has lost its partition, and must neither
	// publish nor commit.
	Stale bool
	// Err is a failure of the script itself, which another try would meet again.
	Err error
}

// Run sends the calls, all of one topic partition, in one pipeline and returns
// their replies in order. Each customer's are applied in their order, whatever
// Redis answers in between. Where Run fails, some of the calls may have been
// applied: running them again returns the same outcomes, as long as they were to
// be remembered.
func (s *Store) Run(ctx context.Context, calls []Call) ([]Reply, error) {
	replies := make([]Reply, len(calls))
	pending := make([]int, len(calls))
	for i := range calls {
		pending[i] = i
	}
	for len(pending) > 0 {
		chain(calls, pending)
		missing, early, err := s.runOnce(ctx, calls, pending, replies)
		if err != nil {
			return nil, err
		}
		if err := s.load(ctx, calls, missing); err != nil {
			return nil, err
		}
		pending = append(missing, early...)
		slices.Sort(pending)
	}
	return replies, nil
}

// chain tells every pending call which one of the same customer must have had its
// turn before: in the middle of a pipeline Redis can lose a script, or send a call
// to another node, and answer those behind it all the same. Calls that change
// nothing may change places among themselves.
func chain(calls []Call, pending []int) {
	lastChange := make(map[string]int, len(pending))
	for _, n := range pending {
		if calls[n].changes() {
			lastChange[calls[n].ledger()] = n
		}
	}
	previous := make(map[string]*Call, len(lastChange))
	for _, n := range pending {
		call, predecessor := &calls[n], any(noPredecessor)
		if before := previous[call.ledger()]; before != nil {
			predecessor = before.common[argOffset]
			if !before.changes() {
				before.common[argKeep] = keepTurn
			}
		}
		call.common[argPredecessor] = predecessor
		if last, changed := lastChange[call.ledger()]; changed && n <= last {
			previous[call.ledger()] = call
		}
	}
}

// runOnce sends the pending calls. It returns those whose script Redis does not
// have (after SCRIPT FLUSH, a restart, a failover), and those that came before
// their turn.
func (s *Store) runOnce(ctx context.Context, calls []Call, pending []int, replies []Reply) (missing, early []int, err error) {
	pipe := s.client.Pipeline()
	commands := make([]*redis.Cmd, len(pending))
	for i, n := range pending {
		commands[i] = pipe.Do(ctx, calls[n].command...)
	}
	var wait *redis.Cmd
	if s.waitReplicas > 0 {
		wait = pipe.Do(ctx, "WAIT", s.waitReplicas, s.waitTimeout.Milliseconds())
	}
	_, _ = pipe.Exec(ctx) // each command bears its own error
	for i, command := range commands {
		value, err := command.Result()
		switch {
		case err != nil && redis.HasErrorPrefix(err, "NOSCRIPT"):
			missing = append(missing, pending[i])
		case isScriptFailure(err):
			replies[pending[i]].Err = fmt.Errorf("redis script %s: %w", calls[pending[i]].script.name, err)
		case err != nil:
			return nil, nil, fmt.Errorf("redis script %s: %w", calls[pending[i]].script.name, err)
		case value == notYet:
			early = append(early, pending[i])
		default:
			if replies[pending[i]], err = readReply(value); err != nil {
				return nil, nil, fmt.Errorf("redis script %s: %w", calls[pending[i]].script.name, err)
			}
		}
	}
	if wait != nil {
		reached, err := wait.Int()
		if err != nil {
			return nil, nil, fmt.Errorf("redis WAIT: %w", err)
		}
		if reached < s.waitReplicas {
			return nil, nil, fmt.Errorf("redis WAIT: %w: %d of %d", ErrTooFewReplicas, reached, s.waitReplicas)
		}
	}
	return missing, early, nil
}

// notYet is NOT_YET of scripts/lib/outcome.lua.
const notYet = int64(0)

// isScriptFailure tells an error that a script ran into from one of Redis around it,
// which passes. Redis 6.2 wraps the latter in the former.
func isScriptFailure(err error) bool {
	if err == nil || !strings.HasPrefix(err.Error(), "ERR ") || !strings.Contains(err.Error(), "script") {
		return false
	}
	return !passing.MatchString(err.Error())
}

// passing are the states of a Redis, and of its settings, that can be mended: then it
// will take the same script.
var passing = regexp.MustCompile(`\b(MISCONF|OOM|READONLY|NOREPLICAS|LOADING|BUSY|MASTERDOWN|CLUSTERDOWN|TRYAGAIN|NOPERM|NOAUTH)\b|The user executing the script can't`)

func readReply(value any) (Reply, error) {
	switch v := value.(type) {
	case string:
		return Reply{outcome: []byte(v)}, nil
	case []any:
		if len(v) == 0 {
			return Reply{Stale: true}, nil
		}
		if outcome, ok := v[0].(string); ok {
			return Reply{outcome: []byte(outcome), Replayed: true}, nil
		}
	}
	return Reply{}, fmt.Errorf("unexpected reply of type %T", value)
}

// load gives Redis the scripts of the calls, each once.
func (s *Store) load(ctx context.Context, calls []Call, missing []int) error {
	loaded := map[*script]bool{}
	for _, n := range missing {
		if loaded[calls[n].script] {
			continue
		}
		loaded[calls[n].script] = true
		if err := calls[n].Load(ctx, s.client); err != nil {
			return err
		}
	}
	return nil
}

// Ping says whether Redis answers.
func (s *Store) Ping(ctx context.Context) error { return s.client.Ping(ctx).Err() }
