package store

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"
)

const (
	// shardPatience is how long the calls of the other shards may be kept waiting by one that does not answer.
	shardPatience = time.Second
	// longPatience is for a shard that answered a ping after it had failed: it may just be slow, and must get on.
	longPatience = 5 * time.Second
	pingPatience = 250 * time.Millisecond
	firstLook    = 100 * time.Millisecond // until a shard that does not answer is looked at, then twice as long each time
	longestLook  = time.Second
)

// shards knows which primaries of a Cluster do not answer. What is for them is not sent, so that calls for the others
// need not wait for it each time; a ping tells when they are back.
type shards struct {
	mutex sync.Mutex
	away  map[string]*awayShard // by address
	count atomic.Int32          // of away, so that nobody locks while all answer
}

// awayShard is a shard that failed, until one of its calls has been answered.
type awayShard struct {
	Away
	client   *redis.Client
	key      string // of a customer that it had: the slot may have another primary by now
	looks    int
	nextLook time.Time
	looking  bool // somebody is
	answered bool // the last look
}

// Away is a shard of a Cluster that does not answer.
type Away struct {
	Addr  string // of its primary
	Since time.Time
	Err   error
}

func (a Away) Error() string {
	return fmt.Sprintf("the redis shard %s does not answer: %v", a.Addr, a.Err)
}

func (a Away) Unwrap() error { return a.Err }

// Away lists the shards that do not answer, by address. Those of a Redis that is no Cluster are not known.
func (s *Store) Away() []Away {
	if s.shards.count.Load() == 0 {
		return nil
	}
	s.shards.mutex.Lock()
	defer s.shards.mutex.Unlock()
	var all []Away
	for _, shard := range s.shards.away {
		if !shard.answered {
			all = append(all, shard.Away)
		}
	}
	slices.SortFunc(all, func(a, b Away) int { return strings.Compare(a.Addr, b.Addr) })
	return all
}

// AwayFor says why calls for a customer are not sent at present, nil if they are. It looks at shards that do not answer
// as seldom as Run does.
func (s *Store) AwayFor(ctx context.Context, customerID string) error {
	if s.shards.count.Load() == 0 {
		return nil
	}
	s.look(ctx)
	client, err := s.nodes.MasterForKey(ctx, s.customerKey(customerID))
	if err != nil {
		return err
	}
	_, away := s.shards.state(client.Options().Addr)
	return away
}

// state says how long the calls of a shard may take, and fails if it is away.
func (s *shards) state(addr string) (patience time.Duration, away error) {
	if s.count.Load() == 0 {
		return shardPatience, nil
	}
	s.mutex.Lock()
	defer s.mutex.Unlock()
	shard := s.away[addr]
	switch {
	case shard == nil:
		return shardPatience, nil
	case shard.answered:
		return longPatience, nil
	}
	return 0, shard.Away
}

// failed notes that a shard did not answer a call for a customer.
func (s *shards) failed(client *redis.Client, customerKey string, err error) Away {
	addr := client.Options().Addr
	s.mutex.Lock()
	defer s.mutex.Unlock()
	shard := s.away[addr]
	if shard == nil {
		shard = &awayShard{Away: Away{Addr: addr, Since: time.Now()}, key: customerKey}
		if s.away == nil {
			s.away = map[string]*awayShard{}
		}
		s.away[addr] = shard
	}
	shard.client, shard.Err, shard.answered = client, err, false
	shard.wait()
	s.count.Store(int32(len(s.away)))
	return shard.Away
}

// wait puts the next look off.
func (a *awayShard) wait() {
	a.nextLook = time.Now().Add(min(firstLook<<min(a.looks, 10), longestLook))
}

// succeeded notes that a shard answered a call.
func (s *shards) succeeded(addr string) {
	if s.count.Load() > 0 {
		s.forget(addr)
	}
}

func (s *shards) forget(addr string) {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	delete(s.away, addr)
	s.count.Store(int32(len(s.away)))
}

// due are the shards that are to be looked at, by nobody else meanwhile.
func (s *shards) due() []*awayShard {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	var all []*awayShard
	now := time.Now()
	for _, shard := range s.away {
		if !shard.answered && !shard.looking && !now.Before(shard.nextLook) {
			shard.looking = true
			all = append(all, shard)
		}
	}
	return all
}

// look pings the shards that do not answer, each about once a second.
func (s *Store) look(ctx context.Context) {
	var looks sync.WaitGroup
	for _, shard := range s.shards.due() {
		looks.Go(func() {
			pinging, cancel := context.WithTimeout(ctx, pingPatience)
			defer cancel()
			now, err := s.nodes.MasterForKey(ctx, shard.key)
			if err == nil && now.Options().Addr != shard.Addr {
				s.shards.forget(shard.Addr) // another has its slots
				return
			}
			err = shard.client.Ping(pinging).Err()
			var refused redis.Error
			answered := err == nil || errors.As(err, &refused)
			if !answered {
				s.nodes.ReloadState(ctx) // in the background; a replica may have taken its place
			}
			s.shards.looked(shard, answered)
		})
	}
	looks.Wait()
}

func (s *shards) looked(shard *awayShard, answered bool) {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	shard.looking, shard.answered = false, answered
	shard.looks++
	shard.wait()
}

// shardWork is what one shard is asked in a round, and what came of it.
type shardWork struct {
	client   *redis.Client // of its primary
	patience time.Duration
	groups   [][]int
	again    []int
	missing  *script
	waits    map[string]error // by customer, why they were not answered; nil if all were
}

func (w *shardWork) wait(calls []Call, group []int, err error) {
	if w.waits == nil {
		w.waits = map[string]error{}
	}
	w.waits[calls[group[0]].customer] = err
}

// sendToShards sends groups to the shards that have their customers, to all at once and each with a deadline of its own.
// It returns the calls that are to be sent again, whether scripts were given to a shard for it, and the customers that were
// not answered, with the reason.
func (s *Store) sendToShards(ctx context.Context, now time.Time, calls []Call, groups [][]int, replies []Reply) (again []int, loaded bool, waits map[string]error) {
	if s.shards.count.Load() > 0 {
		s.look(ctx)
	}
	works, unsent := s.divide(ctx, calls, groups)
	var sending sync.WaitGroup
	for _, work := range works[min(1, len(works)):] {
		sending.Go(func() { s.ask(ctx, now, calls, work, replies) })
	}
	if len(works) > 0 {
		s.ask(ctx, now, calls, works[0], replies)
	}
	sending.Wait()
	waits = unsent.waits
	for _, work := range works {
		again, loaded = append(again, work.again...), loaded || work.missing != nil
		for customer, err := range work.waits {
			if waits == nil {
				waits = map[string]error{}
			}
			waits[customer] = err
		}
	}
	return again, loaded, waits
}

// divide sorts groups by shard. unsent has the customers of those that are away.
func (s *Store) divide(ctx context.Context, calls []Call, groups [][]int) (works []*shardWork, unsent shardWork) {
	byAddr := map[string]*shardWork{}
	for _, group := range groups {
		client, err := s.nodes.MasterForKey(ctx, calls[group[0]].customer)
		if err != nil {
			unsent.wait(calls, group, fmt.Errorf("find the redis shard of a customer: %w", err))
			continue
		}
		addr := client.Options().Addr
		work := byAddr[addr]
		if work == nil {
			patience, away := s.shards.state(addr)
			if away != nil {
				unsent.wait(calls, group, away)
				continue
			}
			work = &shardWork{client: client, patience: patience}
			byAddr[addr] = work
			works = append(works, work)
		}
		work.groups = append(work.groups, group)
	}
	return works, unsent
}

// ask sends a shard its groups in one pipeline. By the client of the Cluster, which follows the slots that move.
func (s *Store) ask(parent context.Context, now time.Time, calls []Call, work *shardWork, replies []Reply) {
	ctx, cancel := context.WithTimeout(parent, work.patience)
	defer cancel()
	pipe := s.client.Pipeline()
	sent := make([]*redis.Cmd, len(work.groups))
	for i, group := range work.groups {
		sent[i] = pipe.Do(ctx, evalsha(now, calls, group)...)
	}
	_, _ = pipe.Exec(ctx) // each of sent has its own error
	answered := false
	for i, group := range work.groups {
		more, missing, err := takeGroup(calls, group, sent[i], replies)
		var refused redis.Error
		switch lost := sent[i].Err(); {
		case lost == nil || errors.As(lost, &refused):
			answered = true
		case parent.Err() == nil:
			err = s.shards.failed(work.client, calls[group[0]].customer, lost)
		}
		if err != nil {
			work.wait(calls, group, err)
			continue
		}
		work.again = append(work.again, more...)
		if missing != nil {
			work.missing = missing
		}
	}
	if answered {
		s.shards.succeeded(work.client.Options().Addr)
	}
	if work.missing == nil {
		return
	}
	if err := work.missing.load(ctx, work.client); err != nil {
		for _, group := range work.groups {
			work.wait(calls, group, err)
		}
	}
}

// clientFor is the client of the primary that has a key, of a Cluster, or of the one server that there is: what a script
// is loaded by. One node that is away must not keep the others from it.
func (s *Store) clientFor(ctx context.Context, key string) (redis.Scripter, error) {
	if s.nodes == nil {
		return s.client, nil
	}
	return s.nodes.MasterForKey(ctx, key)
}
