package engine

import (
	"tollgate/internal/balance"
	"tollgate/internal/wire"
)

// Why a record became a dead letter, for metrics.
const (
	deadUnreadable = "unreadable"
	deadInternal   = string(balance.InternalError)
	deadRefused    = "refused_by_broker"
)

// DeadReasons are all that DeadLettered can report.
var DeadReasons = []string{deadUnreadable, deadInternal, deadRefused}

func (e *Engine) deadLetter(record *kafka.Message, reason, detail string) kafka.Message {
	e.observer.DeadLettered(reason)
	return wire.DeadLetter(e.options.Topics.DeadLetters, record, detail, e.options.Clock().UnixMilli())
}

// Refused is what to write in place of a record that the broker will never take: its dead letter,
// shortened until it fits, and an error for whoever waits for the result (kafka.Refused).
func (e *Engine) Refused(record kafka.Message, err error) []kafka.Message {
	e.logger.Error("the broker refuses a record", "topic", record.Topic, "bytes", len(record.Value), "error", err)
	if record.Topic == e.options.Topics.DeadLetters {
		return nil
	}
	const mostKept = 64 << 10
	dead := record
	dead.Value = record.Value[:min(len(record.Value), mostKept)]
	out := []kafka.Message{e.deadLetter(&dead, deadRefused, "the broker refused it: "+err.Error())}
	if record.Topic != e.options.Topics.UsageEvents {
		out = append(out, wire.WithoutContent(&record, &balance.Error{
			Code: balance.InternalError, Message: "the result is larger than the broker takes; it was decided, and is in the dead-letter topic",
		}))
	}
	return out
}
