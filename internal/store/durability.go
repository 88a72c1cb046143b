package store

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/redis/go-redis/v9"
)

// Warnings says why Redis may lose what it holds: balances are the only copy
// (operations: Redis must keep data). It asks every master of a Cluster.
func (s *Store) Warnings(ctx context.Context) ([]string, error) {
	cluster, ok := s.client.(*redis.ClusterClient)
	if !ok {
		return warningsOf(ctx, s.client)
	}
	found := map[string]bool{}
	masters := make(chan []string)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for warnings := range masters {
			for _, warning := range warnings {
				found[warning] = true
			}
		}
	}()
	err := cluster.ForEachMaster(ctx, func(ctx context.Context, master *redis.Client) error {
		warnings, err := warningsOf(ctx, master)
		masters <- warnings
		return err
	})
	close(masters)
	<-done
	var all []string
	for warning := range found {
		all = append(all, warning)
	}
	return all, err
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
