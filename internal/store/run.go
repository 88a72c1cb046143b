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

	"tollgate/internal/balance"
)

// Reply is what a call returned.
type Reply struct {
	outcome []byte
	// Replayed says that the record was processed before, and this is the outcome of that time.
	Replayed bool
	// Stale says that the record is committed and its outcome forgotten: the caller has lost its
	// partition, and must neither publish nor commit.
	Stale bool
	// Err is a failure of the step itself, which another try would meet again and of which nothing is
	// kept. A failure that could be kept is an outcome with the code internal_error.
	Err error
	// Waits is why the call was not answered, nil if it was: another try may be (ErrPartly).
	Waits error
}

// CustomerID is the customer that the call is about.
func (c *Call) CustomerID() string { return c.step.Customer }

// ErrPartly says that some of the calls were answered, and others wait for their shard of a Cluster.
var ErrPartly = errors.New("some calls wait for their redis shard")

// Run sends the calls, all of one topic partition, and returns their replies in order. Each customer's
// are applied in their order. They are decided as of now. Where Run fails, some of the calls may have
// been applied: running them again returns the same outcomes, as long as they were to be remembered.
//
// In a Cluster calls of customers whose shard does not answer, or refuses them for a reason that passes, keep no others
// waiting: Run fails with ErrPartly then, and returns the replies all the same. Reply.Waits says which calls were not
// answered; of a customer these are its last.
func (s *Store) Run(ctx context.Context, now time.Time, calls []Call) ([]Reply, error) {
	replies := make([]Reply, len(calls))
	pending := make([]int, len(calls))
	for i := range pending {
		pending[i] = i
	}
	if err := s.indexLocks(ctx, now, calls); err != nil {
		return nil, err
	}
	if s.nodes != nil {
		return replies, s.runOnShards(ctx, now, calls, pending, replies)
	}
	for loads := 0; len(pending) > 0; {
		groups, later := s.round(calls, pending)
		again, missing, err := s.send(ctx, now, calls, groups, replies)
		if err != nil {
			return nil, err
		}
		if missing != nil {
			if loads++; loads > mostLoads {
				return nil, fmt.Errorf("redis forgets script %s as soon as it has it", missing.name)
			}
			if err := missing.load(ctx, s.client); err != nil {
				return nil, err
			}
		}
		pending = append(again, later...)
		slices.Sort(pending)
	}
	return replies, nil
}

// runOnShards is Run in a Cluster.
func (s *Store) runOnShards(ctx context.Context, now time.Time, calls []Call, pending []int, replies []Reply) error {
	var failed error
	for loads := 0; len(pending) > 0; {
		groups, later := s.round(calls, pending)
		again, loaded, waits := s.sendToShards(ctx, now, calls, groups, replies)
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if loaded {
			if loads++; loads > mostLoads {
				return errors.New("a redis shard forgets a script as soon as it has it")
			}
		}
		pending = append(again, later...)
		for _, group := range groups {
			// What a customer has behind a call that waits must not overtake it.
			if err := waits[calls[group[0]].customer]; err != nil {
				failed = err
				pending = append(pending, group...)
			}
		}
		if waits != nil {
			pending = slices.DeleteFunc(pending, func(n int) bool {
				err := waits[calls[n].customer]
				if err != nil {
					replies[n] = Reply{Waits: err}
				}
				return err != nil
			})
		}
		slices.Sort(pending)
	}
	if failed != nil {
		return fmt.Errorf("%w: %w", ErrPartly, failed)
	}
	return nil
}

// mostLoads is how often a Run gives Redis its scripts.
const mostLoads = 8

// stepsAtOnce bounds the steps of one call of a script, and so how long others wait for it.
const (
	checksAtOnce   = 64
	commandsAtOnce = 16
)

// round chooses the calls that are sent together, in groups that one call of a script can take each; the
// others are for later. A customer is in one group only: if Redis answered one call, but not
// the one before (it has lost the script, or the slot is moving), the order would be lost. In a Cluster a
// group is one customer's: what others have may lie in another slot.
func (s *Store) round(calls []Call, pending []int) (groups [][]int, later []int) {
	var customers []string
	of := make(map[string][]int, len(pending))
	for _, n := range pending {
		customer := calls[n].customer
		if of[customer] == nil {
			customers = append(customers, customer)
		}
		of[customer] = append(of[customer], n)
	}
	for _, customer := range customers {
		mine := of[customer]
		n := 1
		for n < len(mine) && n < atOnce(&calls[mine[0]]) && fit(&calls[mine[0]], &calls[mine[n]]) {
			n++
		}
		later = append(later, mine[n:]...)
		mine = mine[:n]
		last := len(groups) - 1
		if s.cluster || last < 0 || len(groups[last])+n > atOnce(&calls[mine[0]]) || !fit(&calls[groups[last][0]], &calls[mine[0]]) {
			groups = append(groups, mine)
		} else {
			groups[last] = append(groups[last], mine...)
		}
	}
	return groups, later
}

func atOnce(call *Call) int {
	if call.script == checkScript {
		return checksAtOnce
	}
	return commandsAtOnce
}

// fit says whether two calls can be in one call of a script.
func fit(a, b *Call) bool {
	return a.script == b.script && a.head == b.head && !a.alone && !b.alone
}

// Evalshas are the commands of Redis for calls, for those who measure it.
func (s *Store) Evalshas(now time.Time, calls []Call) [][]any {
	pending := make([]int, len(calls))
	for i := range pending {
		pending[i] = i
	}
	var all [][]any
	for len(pending) > 0 {
		groups, later := s.round(calls, pending)
		for _, group := range groups {
			all = append(all, evalsha(now, calls, group))
		}
		pending = later
	}
	return all
}

// send sends groups in one pipeline. It returns the calls that are to be sent again, and a script that
// Redis does not have (after SCRIPT FLUSH, a restart, a failover), nil if it has all.
func (s *Store) send(ctx context.Context, now time.Time, calls []Call, groups [][]int, replies []Reply) (again []int, missing *script, err error) {
	pipe := s.client.Pipeline()
	sent := make([]*redis.Cmd, len(groups))
	for i, group := range groups {
		sent[i] = pipe.Do(ctx, evalsha(now, calls, group)...)
	}
	var wait *redis.Cmd
	if s.waitReplicas > 0 {
		wait = pipe.Do(ctx, "WAIT", s.waitReplicas, s.waitTimeout.Milliseconds())
	}
	_, _ = pipe.Exec(ctx) // each of sent has its own error
	for i, group := range groups {
		more, lacks, err := takeGroup(calls, group, sent[i], replies)
		if err != nil {
			return nil, nil, err
		}
		again = append(again, more...)
		if lacks != nil {
			missing = lacks
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
	return again, missing, nil
}

// takeGroup reads the answer to a group. It returns the calls that are to be sent again, and a script that Redis does not
// have. It fails if Redis did not answer, or refused for a reason that passes.
func takeGroup(calls []Call, group []int, answer *redis.Cmd, replies []Reply) (again []int, missing *script, err error) {
	values, err := answer.Slice()
	switch {
	case err != nil && redis.HasErrorPrefix(err, "NOSCRIPT"):
		return group, calls[group[0]].script, nil
	case isFailure(err):
		// One step is at fault, or all of them together: each tries by itself.
		for _, n := range group {
			if repeat := calls[n].fail(err.Error(), len(group) == 1, &replies[n]); repeat {
				again = append(again, n)
			}
		}
		return again, nil, nil
	case err == nil && len(values) != len(group):
		err = fmt.Errorf("%d replies to %d steps", len(values), len(group))
	}
	for j := 0; err == nil && j < len(group); j++ {
		var repeat bool
		if repeat, err = calls[group[j]].take(values[j], &replies[group[j]]); repeat {
			again = append(again, group[j])
		}
	}
	if err != nil {
		return nil, nil, fmt.Errorf("redis script %s: %w", calls[group[0]].script.name, err)
	}
	return again, nil, nil
}

var retryAlone, retryRows, retryMore = number("RETRY", "alone"), number("RETRY", "rows"), number("RETRY", "more")

// take reads the reply to the call, and says whether it is to be sent again. It fails where the step
// failed for a reason that passes.
func (c *Call) take(value any, reply *Reply) (again bool, err error) {
	switch v := value.(type) {
	case string:
		*reply = Reply{outcome: []byte(v)}
		return false, nil
	case int64:
		switch {
		case v == retryAlone && !c.alone:
			c.alone = true
			return true, nil
		case v == retryRows && !c.wantsRows:
			c.wantsRows = true
			return true, nil
		case v == retryRows && !sameRows(c.rows, c.items.all):
			c.rows = c.items.all
			return true, nil
		case v == retryMore:
			return true, nil
		}
	case []any:
		if len(v) == 0 {
			*reply = Reply{Stale: true}
			return false, nil
		}
		switch first := v[0].(type) {
		case string:
			*reply = Reply{outcome: []byte(first), Replayed: true}
			return false, nil
		case []any:
			if len(first) == 1 {
				text := fmt.Sprint(first[0])
				if passing.MatchString(text) {
					return false, errors.New(text)
				}
				return c.fail(text, true, reply), nil
			}
		}
	}
	return false, fmt.Errorf("unexpected reply %v", value)
}

// fail notes that the step failed, by itself or with others, and says whether it is to be sent
// again: by itself, and then as a refusal, so that the ledger keeps it in mind.
func (c *Call) fail(text string, alone bool, reply *Reply) (again bool) {
	switch {
	case !alone:
		c.alone = true
		return true
	case c.step.Remember && !c.failed:
		c.failed = true
		c.answerKey = "" // a refusal must not depend on what the key holds
		c.refusal = (&balance.Error{Code: balance.InternalError, Message: text}).Error()
		return true
	}
	*reply = Reply{Err: fmt.Errorf("redis script %s: %s", c.script.name, text)}
	return false
}

// passing are the states of a Redis, and of its settings, that can be fixed: then it will take the
// same script.
var passing = regexp.MustCompile(`\b(MISCONF|OOM|READONLY|NOREPLICAS|LOADING|BUSY|MASTERDOWN|CLUSTERDOWN|TRYAGAIN|MOVED|ASK|CROSSSLOT|NOPERM|NOAUTH|UNKILLABLE)\b` +
	`|user executing the script can't|Script killed|non local key|cluster|not enough memory|unknown command|Unknown Redis command|not allowed from script|Write commands are not allowed`)

// ownFault are what a script runs into that meets what it does not understand.
var ownFault = regexp.MustCompile(`user_script:\d+: |WRONGTYPE|Bad data format|Missing bytes|bad data`)

// isFailure tells an error that a script ran into, and would again, from one of Redis around it, which
// passes. Redis 6.2 wraps the latter in the former.
func isFailure(err error) bool {
	return err != nil && ownFault.MatchString(err.Error()) && !passing.MatchString(err.Error())
}

func (s *script) load(ctx context.Context, client redis.Scripter) error {
	if err := s.Load(ctx, client).Err(); err != nil {
		return fmt.Errorf("load redis script %s: %w", s.name, err)
	}
	return nil
}

// Load gives Redis the call's script.
func (c *Call) Load(ctx context.Context, client redis.Scripter) error {
	return c.script.load(ctx, client)
}

// hasBrace says whether a key prefix would move the hash tag.
func hasBrace(prefix string) bool { return strings.ContainsAny(prefix, "{}") }
