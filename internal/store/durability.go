package store

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"
)

// Warnings says why Redis may lose what it holds: balances are the only copy
// (operations: Redis must keep data). It asks every master of a Cluster; one that does not answer is a warning, too, as
// long as another does.
func (s *Store) Warnings(ctx context.Context) ([]string, error) {
	var mutex sync.Mutex
	var all []string
	var away []error
	answered := false
	err := s.eachMaster(ctx, func(ctx context.Context, addr string, master redis.Cmdable) {
		warnings, err := warningsOf(ctx, master)
		mutex.Lock()
		defer mutex.Unlock()
		if err != nil {
			away = append(away, err)
			warnings = []string{fmt.Sprintf("the redis shard %s does not answer; its customers wait: %v", addr, err)}
		}
		answered = answered || err == nil
		for _, warning := range warnings {
			if !slices.Contains(all, warning) {
				all = append(all, warning)
			}
		}
	})
	if err == nil && !answered {
		err = errors.Join(away...)
	}
	return all, err
}

// Ping says whether Redis answers: in a Cluster, which of its masters do not.
func (s *Store) Ping(ctx context.Context) error {
	var mutex sync.Mutex
	var away []error
	err := s.eachMaster(ctx, func(ctx context.Context, addr string, master redis.Cmdable) {
		err := master.Ping(ctx).Err()
		if err == nil {
			return
		}
		if s.nodes != nil {
			err = fmt.Errorf("the shard %s does not answer, its customers wait: %w", addr, err)
		}
		mutex.Lock()
		defer mutex.Unlock()
		away = append(away, err)
	})
	return errors.Join(append(away, err)...)
}

// layoutPatience bounds the waiting for the layout of a Cluster: a node that is frozen may be asked for it. The one that was
// known before does then.
const layoutPatience = 500 * time.Millisecond

// eachMaster visits every master of a Cluster, at once, or the one server that there is. It fails if the masters are not known.
func (s *Store) eachMaster(ctx context.Context, visit func(ctx context.Context, addr string, master redis.Cmdable)) error {
	if s.nodes == nil {
		visit(ctx, "", s.client)
		return nil
	}
	reading, cancel := context.WithTimeout(ctx, layoutPatience)
	defer cancel()
	err := s.nodes.ForEachMaster(reading, func(_ context.Context, master *redis.Client) error {
		visiting, cancel := context.WithTimeout(ctx, shardPatience)
		defer cancel()
		visit(visiting, master.Options().Addr, master)
		return nil
	})
	if err != nil {
		return fmt.Errorf("read the layout of the Redis Cluster: %w", err)
	}
	return nil
}

// EvictedKeys is how many keys Redis has evicted since its start, all masters of a Cluster
// together: balances that are gone.
func (s *Store) EvictedKeys(ctx context.Context) (int64, error) {
	var mutex sync.Mutex
	var sum int64
	var failed error
	err := s.eachMaster(ctx, func(ctx context.Context, _ string, master redis.Cmdable) {
		evicted, err := evictedKeys(ctx, master)
		mutex.Lock()
		defer mutex.Unlock()
		sum, failed = sum+evicted, cmp.Or(failed, err)
	})
	return sum, cmp.Or(failed, err)
}

func evictedKeys(ctx context.Context, client redis.Cmdable) (int64, error) {
	stats, err := client.Info(ctx, "stats").Result()
	if err != nil {
		return 0, fmt.Errorf("redis INFO: %w", err)
	}
	evicted, _ := strconv.ParseInt(infoField(stats, "evicted_keys"), 10, 64) // miniredis does not tell
	return evicted, nil
}

func warningsOf(ctx context.Context, client redis.Cmdable) ([]string, error) {
	memory, memoryErr := client.Info(ctx, "memory").Result()
	persistence, err := client.Info(ctx, "persistence").Result()
	err = cmp.Or(memoryErr, err)
	var refused redis.Error
	if errors.As(err, &refused) { // it answers, and that is enough to work with
		return []string{fmt.Sprintf("redis does not tell whether it keeps its data; see that it evicts nothing and writes an append-only file (INFO: %v)", refused)}, nil
	}
	if err != nil {
		return nil, fmt.Errorf("redis INFO: %w", err)
	}
	var warnings []string
	if policy := infoField(memory, "maxmemory_policy"); policy != "" && policy != "noeviction" {
		warnings = append(warnings, fmt.Sprintf("redis may evict balances when its memory is full: maxmemory-policy is %s; set it to noeviction", policy))
	}
	if infoField(persistence, "aof_enabled") == "0" {
		warnings = append(warnings, "redis keeps no append-only file: a crash loses deductions; set appendonly to yes")
	}
	return warnings, nil
}

// infoField is a field of the answer to INFO, "" where it is absent.
func infoField(info, name string) string {
	for line := range strings.Lines(info) {
		if value, ok := strings.CutPrefix(line, name+":"); ok {
			return strings.TrimSpace(value)
		}
	}
	return ""
}
