package store

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	"tollgate/internal/balance"
)

// FeatureChange is a feature that the catalogue describes otherwise than when
// its first balances were granted.
type FeatureChange struct {
	FeatureID string
	Was, Is   balance.Feature
}

// FeaturesChanged is the error of a catalogue that would give the amounts in the
// store another meaning.
type FeaturesChanged []FeatureChange

func (f FeaturesChanged) Error() string {
	var lines []string
	for _, change := range f {
		lines = append(lines, fmt.Sprintf("feature %q was %s and is %s now; its balances would change their meaning: give the feature another id",
			change.FeatureID, describe(&change.Was), describe(&change.Is)))
	}
	return strings.Join(lines, "\n")
}

func describe(feature *balance.Feature) string {
	if feature.Type == balance.Boolean {
		return string(feature.Type)
	}
	return fmt.Sprintf("%s with precision %d", feature.Type, feature.Precision)
}

// RegisterFeatures holds the catalogue's features against those that the store
// knows, and adds the new ones. It returns the catalogue, knowing those that it has
// no longer. It fails with FeaturesChanged where a type or a precision differs:
// balances are integers of 10^-precision.
func (s *Store) RegisterFeatures(ctx context.Context, catalog *balance.Catalog) (*balance.Catalog, error) {
	key := s.prefix + "features"
	pipe := s.client.Pipeline()
	for i := range catalog.Features {
		pipe.HSetNX(ctx, key, catalog.Features[i].ID, registered(&catalog.Features[i]))
	}
	all := pipe.HGetAll(ctx, key)
	if _, err := pipe.Exec(ctx); err != nil {
		return nil, fmt.Errorf("register features: %w", err)
	}
	var changes FeaturesChanged
	var retired []balance.Feature
	for id, text := range all.Val() {
		was := parseRegistered(id, text)
		is := catalog.Feature(id)
		switch {
		case is == nil:
			retired = append(retired, was)
		case registered(is) != text:
			changes = append(changes, FeatureChange{id, was, *is})
		}
	}
	if len(changes) > 0 {
		return nil, changes
	}
	return catalog.WithRetired(retired), nil
}

// registered is what the store keeps of a feature: <type>/<precision>.
func registered(feature *balance.Feature) string {
	precision := feature.Precision
	if feature.Type == balance.Boolean {
		precision = 0
	}
	return string(feature.Type) + "/" + strconv.Itoa(precision)
}

func parseRegistered(id, text string) balance.Feature {
	kind, digits, _ := strings.Cut(text, "/")
	precision, _ := strconv.Atoi(digits)
	return balance.Feature{ID: id, Name: id, Type: balance.FeatureType(kind), Precision: precision}
}
