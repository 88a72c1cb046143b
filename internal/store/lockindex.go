package store

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"strconv"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"

	"tollgate/internal/balance"
)

// The index of locks says which customers to look at when nobody asks for them (docs/adr/0011). It may name locks
// that are settled, or never were; it must name all that are held, no later than when they expire.

// LockRef names a lock.
type LockRef struct{ CustomerID, LockID string }

func (s *Store) lockIndexKey() string { return s.prefix + "locks" }

// member is the lock as the index has it. Ids may be any text, so no character can part them.
func (r LockRef) member() string {
	text, err := json.Marshal([]string{r.CustomerID, r.LockID})
	if err != nil {
		panic(err) // strings are always encoded
	}
	return string(text)
}

func parseLockRef(member string) (LockRef, error) {
	var ids []string
	if err := json.Unmarshal([]byte(member), &ids); err != nil || len(ids) != 2 {
		return LockRef{}, fmt.Errorf("the index of locks has %q, which is no pair of ids", member)
	}
	return LockRef{ids[0], ids[1]}, nil
}

// longestLock is the longest that a lock is held.
var longestLock = time.Duration(number("LIMIT", "lock_ms")) * time.Millisecond

// indexLocks puts the locks that calls are about to make, or to shorten, into the index before they are: a lock that is
// not in it would be held for too long if nobody asks for its customer. In a Cluster the index lies on another shard than most
// customers, who must not wait for it: what it does not take is put into it later.
func (s *Store) indexLocks(ctx context.Context, now time.Time, calls []Call) error {
	var members []redis.Z
	for i := range calls {
		call := &calls[i]
		if call.lockID == "" {
			continue
		}
		latest := now.Add(longestLock).UnixMilli()
		expires := cmp.Or(call.lockExpiresMs, latest)
		if expires <= now.UnixMilli() || expires > latest { // it will be refused
			continue
		}
		members = append(members, redis.Z{Score: float64(expires), Member: LockRef{call.step.Customer, call.lockID}.member()})
	}
	if len(members) == 0 {
		return nil
	}
	if s.nodes == nil {
		return s.index(ctx, members)
	}
	within, cancel := context.WithTimeout(ctx, indexTimeout)
	defer cancel()
	if err := s.index(within, members); err != nil {
		s.unindexed.add(members)
	}
	return nil
}

func (s *Store) index(ctx context.Context, members []redis.Z) error {
	// One that is held longer is found when it was to expire before, and looked at again later.
	if err := s.client.ZAddLT(ctx, s.lockIndexKey(), members...).Err(); err != nil {
		return fmt.Errorf("note locks that are to expire: %w", err)
	}
	return nil
}

// indexTimeout is how long customers of a Cluster wait for the shard of the index.
const indexTimeout = 200 * time.Millisecond

// unindexed are locks that the index has not taken yet.
type unindexed struct {
	mutex   sync.Mutex
	members []redis.Z
}

// mostUnindexed bounds them. What is beyond it expires with the next step of its customer.
const mostUnindexed = 100_000

func (u *unindexed) add(members []redis.Z) {
	u.mutex.Lock()
	defer u.mutex.Unlock()
	u.members = append(u.members, members[:min(len(members), mostUnindexed-len(u.members))]...)
}

func (u *unindexed) take() []redis.Z {
	u.mutex.Lock()
	defer u.mutex.Unlock()
	members := u.members
	u.members = nil
	return members
}

var claimScript = newScript("claim")

// ClaimedLock is a lock that is due to expire.
type ClaimedLock struct {
	LockRef
	DueMs int64 // Unix ms; of one that was claimed before: when the lease of that ended
}

// ClaimLocks returns locks that are due to expire at a time, at most so many. No other caller gets them for the lease.
func (s *Store) ClaimLocks(ctx context.Context, now time.Time, lease time.Duration, most int) ([]ClaimedLock, error) {
	if late := s.unindexed.take(); len(late) > 0 {
		if err := s.index(ctx, late); err != nil {
			s.unindexed.add(late)
			return nil, err
		}
	}
	found, err := s.runOnKey(ctx, claimScript, s.lockIndexKey(), now.UnixMilli(), lease.Milliseconds(), most).StringSlice()
	if err != nil {
		return nil, fmt.Errorf("look for locks that expire: %w", err)
	}
	locks := make([]ClaimedLock, 0, len(found)/2)
	for i := 0; i+1 < len(found); i += 2 {
		ref, err := parseLockRef(found[i])
		if err != nil {
			return nil, err
		}
		due, err := strconv.ParseFloat(found[i+1], 64)
		if err != nil {
			return nil, fmt.Errorf("look for locks that expire: %w", err)
		}
		locks = append(locks, ClaimedLock{ref, int64(due)})
	}
	return locks, nil
}

// NoteLocks has the index agree with what became of locks: those that are held are looked at when they expire, others are
// no longer in it, nor is one without a state, which there is not. It gives up soon.
func (s *Store) NoteLocks(ctx context.Context, locks map[LockRef]balance.Lock) error {
	if len(locks) == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, indexTimeout)
	defer cancel()
	pipe := s.client.Pipeline()
	for ref, lock := range locks {
		if lock.State == balance.LockHeld {
			pipe.ZAddXX(ctx, s.lockIndexKey(), redis.Z{Score: float64(lock.ExpiresMs), Member: ref.member()})
		} else {
			pipe.ZRem(ctx, s.lockIndexKey(), ref.member())
		}
	}
	if _, err := pipe.Exec(ctx); err != nil {
		return fmt.Errorf("note what became of locks: %w", err)
	}
	return nil
}
