package engine

import (
	"slices"

	"tollgate/internal/balance"
	"tollgate/internal/kafka"
	"tollgate/internal/wire"
)

// DeadReason is why a record became a dead letter. A dead letter has it as its WriterData, so that it is counted
// once it is acknowledged.
type DeadReason string

const (
	deadUnreadable DeadReason = "unreadable"
	deadInternal   DeadReason = DeadReason(balance.InternalError)
	deadRefused    DeadReason = "refused_by_broker"
)

// DeadReasons are all that there are.
var DeadReasons = []DeadReason{deadUnreadable, deadInternal, deadRefused}

func (e *Engine) deadLetter(record *kafka.Message, reason DeadReason, detail string) kafka.Message {
	dead := wire.DeadLetter(e.options.Topics.DeadLetters, record, detail, e.options.Clock().UnixMilli())
	if cut, ok := record.WriterData.(kafka.Cut); ok {
		dead = wire.Partial(dead, cut.Bytes)
	}
	dead.WriterData = reason
	return dead
}

// tooLargeToRead is why a record is refused of which not all was kept.
func tooLargeToRead(record *kafka.Message) *balance.Error {
	if _, cut := record.WriterData.(kafka.Cut); !cut {
		return nil
	}
	return &balance.Error{Code: balance.InvalidRequest, Message: "the record is too large: its value, its key and its headers may have 65536 bytes each"}
}

// mostKept is how much of the value of a record is kept in a dead letter that is too large for the broker.
const mostKept = 64 << 10

// Refused is what to write in the place of a record that the broker will not take (kafka.Refused).
func (e *Engine) Refused(record kafka.Message, err error) (instead []kafka.Message, ok bool) {
	topics := &e.options.Topics
	if kafka.IsTopicRefused(err) {
		// The topics of our own are somebody's mistake that ends: everything waits for them. A reply topic is
		// the choice of whoever asks, and must not keep others waiting.
		if !e.isOthers(record.Topic) {
			return nil, false
		}
		e.replyTopics[record.Topic].Do(func() {
			e.logger.Error("a reply topic takes no results; they go to the default topic", "topic", record.Topic, "error", err)
		})
		return []kafka.Message{e.toDefaultTopic(record)}, true
	}
	e.logger.Error("the broker refuses a record", "topic", record.Topic, "bytes", len(record.Value), "error", err)
	switch record.Topic {
	case topics.DeadLetters:
		return e.shorterDeadLetter(record, err), true
	case topics.UsageEvents:
		return []kafka.Message{e.refusedLetter(record, err)}, true
	}
	if kafka.IsTooLarge(err) {
		return []kafka.Message{e.refusedLetter(record, err), wire.WithoutContent(&record, &balance.Error{
			Code: balance.InternalError, Message: "the result is larger than the broker takes; it was decided, and is in the dead-letter topic",
		})}, true
	}
	if e.isOthers(record.Topic) { // which takes other records than ours
		return []kafka.Message{e.toDefaultTopic(record)}, true
	}
	return []kafka.Message{e.refusedLetter(record, err)}, true
}

// isOthers says that a topic is no one of ours, but one that a request may name.
func (e *Engine) isOthers(topic string) bool {
	return e.replyTopics[topic] != nil && !slices.Contains(e.options.Topics.All(), topic)
}

func (e *Engine) refusedLetter(record kafka.Message, err error) kafka.Message {
	record.Offset, record.WriterData = 0, nil
	return e.deadLetter(&record, deadRefused, "the broker refused it: "+err.Error())
}

// toDefaultTopic is a result on the topic on which it would be without a reply-topic header.
func (e *Engine) toDefaultTopic(result kafka.Message) kafka.Message {
	result.Topic, result.Partition = e.options.Topics.CheckResults, kafka.AnyPartition
	if wire.IsCommandResult(&result) {
		result.Topic = e.options.Topics.CommandResults
	}
	return result
}

// shorterDeadLetter is a dead letter that the broker may take in the place of one that it does not: with a key, if it
// has none, and with a part of its value. Where the whole record lies is in its headers.
func (e *Engine) shorterDeadLetter(dead kafka.Message, err error) []kafka.Message {
	if dead.Key == nil && !kafka.IsTooLarge(err) {
		dead.Key = []byte{}
		return []kafka.Message{dead}
	}
	if len(dead.Value) == 0 {
		e.logger.Error("a dead letter is refused; it is lost", "key_bytes", len(dead.Key), "headers", len(dead.Headers), "error", err)
		return nil
	}
	whole := len(dead.Value)
	dead.Value = dead.Value[:min(mostKept, whole/2)]
	return []kafka.Message{wire.Partial(dead, whole)}
}
