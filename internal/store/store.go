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
	cluster      bool
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
	_, cluster := client.(*redis.ClusterClient)
	return &Store{client, cluster, options.Prefix, options.WaitReplicas, options.WaitTimeout}, nil
}

// script is one of scripts/*.lua.
type script struct {
	*redis.Script
	name, text string
}

func newScript(name string) *script {
	text := writeOutPositions(mustText(name))
	return &script{redis.NewScript(text), name, text}
}

// Call is a step that a script takes, not yet sent.
type Call struct {
	header
	script *script
	// Keys; idempotency is "" where the request has no key.
	customer, entities, ledger, idempotency string
	items                                   *Items
	rows                                    []byte // of items, those that the step may need
	offset, timestampMs                     int64
	predecessor                             int64 // offset of the record that must have had its turn before
	keep                                    string
	memo                                    []byte
	args                                    []byte // packed list
}

const noPredecessor = -1

// Script is the text of the call's script, for those who measure it.
func (c *Call) Script() string { return c.script.text }

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
	pending := allOf(calls)
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

// allOf are the places of calls.
func allOf(calls []Call) []int {
	places := make([]int, len(calls))
	for i := range places {
		places[i] = i
	}
	return places
}

// chain tells every pending call which one of the same customer must have had its
// turn before: in the middle of a pipeline Redis can lose a script, or send a call
// to another node, and answer those behind it all the same. Calls that change
// nothing may change places among themselves.
func chain(calls []Call, pending []int) {
	lastChange := make(map[string]int, len(pending))
	for _, n := range pending {
		if calls[n].changes() {
			lastChange[calls[n].ledger] = n
		}
	}
	previous := make(map[string]*Call, len(lastChange))
	for _, n := range pending {
		call := &calls[n]
		call.predecessor = noPredecessor
		if before := previous[call.ledger]; before != nil {
			call.predecessor = before.offset
			if !before.changes() {
				before.keep = keepTurn
			}
		}
		if last, changed := lastChange[call.ledger]; changed && n <= last {
			previous[call.ledger] = call
		}
	}
}

// stepsAtOnce bounds the steps of one call of a script, and so how long others wait for it.
const stepsAtOnce = 32

// group puts pending calls together that one call of a script can take, each customer's in
// their order, one behind the other. In a cluster these are calls of one customer: what
// others have may lie in another slot.
func (s *Store) group(calls []Call, pending []int) [][]int {
	var customers []string
	of := make(map[string][]int, len(pending))
	for _, n := range pending {
		customer := calls[n].customer
		if of[customer] == nil {
			customers = append(customers, customer)
		}
		of[customer] = append(of[customer], n)
	}
	groups := make([][]int, 0, len(pending)/stepsAtOnce+1)
	for _, customer := range customers {
		apart := s.cluster
		for _, n := range of[customer] {
			last := len(groups) - 1
			if last < 0 || apart || !fits(calls, groups[last], n) {
				groups = append(groups, make([]int, 0, stepsAtOnce))
				last++
			}
			groups[last], apart = append(groups[last], n), false
		}
	}
	return groups
}

// fits says whether one call of a script can take a group and another call.
func fits(calls []Call, group []int, n int) bool {
	first := &calls[group[0]]
	return len(group) < stepsAtOnce && first.script == calls[n].script && first.header == calls[n].header
}

// Commands are what is sent to Redis for calls, for those who measure it.
func (s *Store) Commands(calls []Call) [][]any {
	pending := allOf(calls)
	chain(calls, pending)
	var commands [][]any
	for _, group := range s.group(calls, pending) {
		commands = append(commands, command(calls, group))
	}
	return commands
}

// runOnce sends the pending calls. It returns those whose script Redis does not
// have (after SCRIPT FLUSH, a restart, a failover), and those that came before
// their turn.
func (s *Store) runOnce(ctx context.Context, calls []Call, pending []int, replies []Reply) (missing, early []int, err error) {
	pipe := s.client.Pipeline()
	groups := s.group(calls, pending)
	commands := make([]*redis.Cmd, len(groups))
	for i, group := range groups {
		commands[i] = pipe.Do(ctx, command(calls, group)...)
	}
	var wait *redis.Cmd
	if s.waitReplicas > 0 {
		wait = pipe.Do(ctx, "WAIT", s.waitReplicas, s.waitTimeout.Milliseconds())
	}
	_, _ = pipe.Exec(ctx) // each command bears its own error
	for i, group := range groups {
		values, err := commands[i].Slice()
		switch {
		case err != nil && redis.HasErrorPrefix(err, "NOSCRIPT"):
			missing = append(missing, group...)
			continue
		case isScriptFailure(err):
			for _, n := range group {
				replies[n].Err = fmt.Errorf("redis script %s: %w", calls[n].script.name, err)
			}
			continue
		case err == nil && len(values) != len(group):
			err = fmt.Errorf("%d replies to %d steps", len(values), len(group))
		}
		for j := 0; err == nil && j < len(group); j++ {
			if values[j] == notYet {
				early = append(early, group[j])
			} else {
				replies[group[j]], err = readReply(values[j])
			}
		}
		if err != nil {
			return nil, nil, fmt.Errorf("redis script %s: %w", calls[group[0]].script.name, err)
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

// notYet is NOT_YET of scripts/lib/outcome.lua, failed is FAILED of scripts/lib/run.lua.
const notYet, failed = int64(0), int64(0)

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

// readReply reads the reply to a step. It fails where the step failed for a reason that
// passes.
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
		if len(v) == 2 && v[0] == failed {
			err := fmt.Errorf("%v", v[1])
			if passing.MatchString(err.Error()) {
				return Reply{}, err
			}
			return Reply{Err: err}, nil
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
