package store

import (
	"context"
	"errors"
	"fmt"

	"github.com/redis/go-redis/v9"
)

// ErrClusterNode says that a node of a Cluster was taken for a Redis by itself: it has some of the customers
// only, and refuses a call for several of them.
var ErrClusterNode = errors.New("the Redis is a node of a Cluster; name several of its nodes in --redis-addrs, so that it is used as one")

// Unsuitable says why the Redis can never be used as it is, nil if it can. It fails if Redis does not answer.
func (s *Store) Unsuitable(ctx context.Context) (reason, err error) {
	if s.nodes != nil {
		// Read once now, the layout is known from here on; a node that is frozen may be the first that is asked for it.
		reading, cancel := context.WithTimeout(ctx, layoutPatience)
		defer cancel()
		if _, err := s.nodes.MasterForKey(reading, s.lifetimesKey()); err != nil {
			return nil, fmt.Errorf("read the layout of the Redis Cluster: %w", err)
		}
		return nil, nil
	}
	info, err := s.client.Info(ctx, "cluster").Result()
	var refused redis.Error
	switch {
	case errors.As(err, &refused): // it does not tell
		return nil, nil
	case err != nil:
		return nil, fmt.Errorf("redis INFO: %w", err)
	case infoField(info, "cluster_enabled") == "1":
		return ErrClusterNode, nil
	}
	return nil, nil
}
