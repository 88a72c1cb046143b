package stream

import (
	"context"

	"github.com/segmentio/kafka-go"
)

// ConfirmMembership asks the group of a generation whether it still is its own.
func ConfirmMembership(ctx context.Context, client *kafka.Client, generation *kafka.Generation) error {
	return newMembership(client, generation, 0).confirm(ctx)
}
