package store

import (
	"context"
	"fmt"

	"github.com/redis/go-redis/v9"
)

var forgetScript = newScript("forget")

// customersAtOnce bounds the customers that one call of the script looks at.
const customersAtOnce = 100

// Forget drops the outcomes of a source's records below the committed offset. The next record would do
// so, too, but may be long in coming. Of customers it drops what is left if they do not exist, and in a
// Cluster the outcomes; elsewhere these are not with the customers.
func (s *Store) Forget(ctx context.Context, source string, committed int64, customerIDs []string) error {
	var calls [][]string // the keys of each
	hasLog := s.logKey(source) != ""
	if hasLog {
		calls = [][]string{{s.logKey(source)}}
	}
	for _, id := range customerIDs {
		last := len(calls) - 1
		if !hasLog || len(calls[last]) > customersAtOnce {
			calls = append(calls, nil)
			last++
			if hasLog {
				calls[last] = append(calls[last], s.logKey(source))
			}
		}
		calls[last] = append(calls[last], s.customerKey(id))
	}
	if s.cluster {
		if away := s.Away(); away != nil {
			return away[0]
		}
		bounded, cancel := context.WithTimeout(ctx, shardPatience) // records may wait for the end of it
		defer cancel()
		ctx = bounded
	}
	for loaded := false; ; loaded = true {
		pipe := s.client.Pipeline()
		for _, keys := range calls {
			pipe.EvalSha(ctx, forgetScript.Hash(), keys, source, committed, bit(hasLog))
		}
		_, err := pipe.Exec(ctx)
		if loaded || !redis.HasErrorPrefix(err, "NOSCRIPT") {
			if err != nil {
				return fmt.Errorf("redis script %s: %w", forgetScript.name, err)
			}
			return nil
		}
		for _, keys := range calls {
			client, err := s.clientFor(ctx, keys[0])
			if err == nil {
				err = forgetScript.load(ctx, client)
			}
			if err != nil {
				return err
			}
		}
	}
}
