// Package store keeps the customers' state in Redis. Every step is taken by a Lua script (scripts/*.lua);
// there is one Go method per kind of step, and many steps go together in one call. It knows nothing of
// Kafka but the name of a record.
package store

import (
	"errors"
	"time"

	"github.com/redis/go-redis/v9"
)

// Store runs scripts against Redis.
type Store struct {
	client       redis.UniversalClient
	cluster      bool
	nodes        *redis.ClusterClient // client, if it is that of a Cluster
	shards       shards
	unindexed    unindexed
	prefix       string
	waitReplicas int
	waitTimeout  time.Duration
}

// Options are what a Store needs beside its client.
type Options struct {
	// Prefix begins every key.
	Prefix string
	// WaitReplicas is how many replicas must have the writes of a batch before Run returns; 0: none.
	WaitReplicas int
	// WaitTimeout bounds that waiting.
	WaitTimeout time.Duration
}

// ErrPrefix says that a key prefix contains a brace, which would move the hash tag.
var ErrPrefix = errors.New("the key prefix must not contain { or }")

// ErrTooFewReplicas says that a batch was applied but has not reached as many replicas as it must.
// Running it again is safe.
var ErrTooFewReplicas = errors.New("too few replicas acknowledged the writes")

// New makes a store on a client that the caller closes.
func New(client redis.UniversalClient, options Options) (*Store, error) {
	if hasBrace(options.Prefix) {
		return nil, ErrPrefix
	}
	nodes, cluster := client.(*redis.ClusterClient)
	return &Store{
		client: client, cluster: cluster, nodes: nodes, prefix: options.Prefix, waitReplicas: options.WaitReplicas, waitTimeout: options.WaitTimeout,
	}, nil
}
