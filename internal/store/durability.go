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
	"sync/atomic"

	"github.com/redis/go-redis/v9"
)

// Warnings says why Redis may lose what it holds: balances are the only copy
// (operations: Redis must keep data). It asks every master of a Cluster.
func (s *Store) Warnings(ctx context.Context) ([]string, error) {
	var mutex sync.Mutex
	var all []string
	err := s.eachMaster(ctx, func(ctx context.Context, master redis.Cmdable) error {
		warnings, err := warningsOf(ctx, master)
		mutex.Lock()
		defer mutex.Unlock()
		for _, warning := range warnings {
			if !slices.Contains(all, warning) {
				all = append(all, warning)
			}
		}
		return err
	})
	return all, err
}

// eachMaster visits every master of a Cluster, at once, or the one server that there is.
func (s *Store) eachMaster(ctx context.Context, visit func(ctx context.Context, master redis.Cmdable) error) error {
	cluster, ok := s.client.(*redis.ClusterClient)
	if !ok {
		return visit(ctx, s.client)
	}
	return cluster.ForEachMaster(ctx, func(ctx context.Context, master *redis.Client) error { return visit(ctx, master) })
}

// EvictedKeys is how many keys Redis has evicted since its start, all masters of a Cluster
// together: balances that are gone.
func (s *Store) EvictedKeys(ctx context.Context) (int64, error) {
	var sum atomic.Int64
	err := s.eachMaster(ctx, func(ctx context.Context, master redis.Cmdable) error {
		evicted, err := evictedKeys(ctx, master)
		sum.Add(evicted)
		return err
	})
	return sum.Load(), err
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
