package store

import (
	"context"
	"fmt"
	"strings"

	"github.com/redis/go-redis/v9"

	"tollgate/internal/balance"
)

// FeatureChange is a feature that the catalogue describes otherwise than when
// its first balances were granted.
type FeatureChange struct{ FeatureID, Was, Is string }

// FeaturesChanged is the error of a catalogue that would give the amounts in the
// store another meaning.
type FeaturesChanged []FeatureChange

func (f FeaturesChanged) Error() string {
	var lines []string
	for _, change := range f {
		lines = append(lines, fmt.Sprintf("feature %q was %s and is %s now; its balances would change their meaning: give the feature another id",
			change.FeatureID, change.Was, change.Is))
	}
	return strings.Join(lines, "\n")
}

// RegisterFeatures holds the catalogue's features against those that the store
// knows, and adds the new ones. It fails with FeaturesChanged where a type or a
// precision differs: balances are integers of 10^-precision.
func (s *Store) RegisterFeatures(ctx context.Context, catalog *balance.Catalog) error {
	key := s.prefix + "features"
	pipe := s.client.Pipeline()
	known := make([]*redis.StringCmd, len(catalog.Features))
	for i := range catalog.Features {
		feature := &catalog.Features[i]
		pipe.HSetNX(ctx, key, feature.ID, describe(feature))
		known[i] = pipe.HGet(ctx, key, feature.ID)
	}
	if _, err := pipe.Exec(ctx); err != nil {
		return fmt.Errorf("register features: %w", err)
	}
	var changes FeaturesChanged
	for i := range catalog.Features {
		if was, is := known[i].Val(), describe(&catalog.Features[i]); was != is {
			changes = append(changes, FeatureChange{catalog.Features[i].ID, was, is})
		}
	}
	if len(changes) > 0 {
		return changes
	}
	return nil
}

func describe(feature *balance.Feature) string {
	if feature.Type == balance.Boolean {
		return string(feature.Type)
	}
	return fmt.Sprintf("%s with precision %d", feature.Type, feature.Precision)
}
