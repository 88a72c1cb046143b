package engine

import (
	"context"
	"fmt"

	"tollgate/internal/store"
	"tollgate/internal/stream"
)

// Lifetime returns the lifetime in which a partition was decided last on this Redis
// (stream.Lifetimes).
func (e *Engine) Lifetime(ctx context.Context, at stream.Place) (noted stream.Lifetime, err error) {
	return e.lifetime(func() (store.Lifetime, error) { return e.store.Lifetime(ctx, fieldOf(at)) })
}

// Succeed notes a lifetime that follows the one with the id before (stream.Lifetimes).
func (e *Engine) Succeed(ctx context.Context, at stream.Place, next stream.Lifetime, before string) (stream.Lifetime, error) {
	return e.lifetime(func() (store.Lifetime, error) {
		return e.store.Succeed(ctx, fieldOf(at), store.Lifetime(next), before)
	})
}

func fieldOf(at stream.Place) string {
	return fmt.Sprintf("%s/%s/%s/%d", at.Cluster, at.Topic, at.TopicID, at.Partition)
}

// lifetime asks Redis once: the stream tries again, and tells why a partition does not begin.
func (e *Engine) lifetime(ask func() (store.Lifetime, error)) (stream.Lifetime, error) {
	noted, err := ask()
	if err != nil {
		e.observer.RedisRetried()
	}
	return stream.Lifetime(noted), err
}
