package engine

import (
	"context"
	"encoding/json"

	"github.com/segmentio/kafka-go"

	"tollgate/internal/store"
)

// Inspect answers customer.get without a record: what the commands' topic would be answered.
// Nothing is changed but resets and expiries that are due.
func (e *Engine) Inspect(ctx context.Context, customerID string) (result []byte, err error) {
	value, err := json.Marshal(map[string]string{"type": "customer.get", "customer_id": customerID})
	if err != nil {
		return nil, err
	}
	record := kafka.Message{Topic: e.options.Topics.Commands, Value: value}
	q, ready := e.read(&request{
		record: &record, rules: e.rules.Load(), readAt: e.options.Clock(), origin: store.Origin{Source: "console"},
	})
	if q == nil {
		return ready[0].Value, nil
	}
	replies, err := e.store.Run(ctx, e.options.Clock(), []store.Call{q.call()})
	if err != nil {
		return nil, err
	}
	records, err := e.settle(&record, q, replies[0])
	if err != nil {
		return nil, err
	}
	return records[0].Value, nil
}
