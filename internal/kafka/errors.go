package kafka

import (
	"errors"
	"time"

	kafkago "github.com/segmentio/kafka-go"

	"tollgate/internal/retry"
)

// patience is how often a request is tried again that a broker may take later.
var patience = retry.Policy{First: 50 * time.Millisecond, Longest: 5 * time.Second}

// IsTooLarge says that a broker refuses a batch, or the only record in it, for its size.
func IsTooLarge(err error) bool {
	return errors.Is(err, kafkago.MessageSizeTooLarge) || errors.Is(err, kafkago.RecordListTooLarge)
}

// isRecordRefused says that a broker will never take one of the records of a batch: it is too large, or the topic
// refuses records that are like it (without a key, if it is compacted).
func isRecordRefused(err error) bool {
	return IsTooLarge(err) || errors.Is(err, kafkago.InvalidRecord) || errors.Is(err, kafkago.InvalidTimestamp)
}

// IsTopicRefused says that a topic takes and gives nothing, and that no further try will change that unless
// somebody does something: it does not exist, or this user may not use it.
func IsTopicRefused(err error) bool {
	return errors.Is(err, kafkago.UnknownTopicOrPartition) || errors.Is(err, kafkago.TopicAuthorizationFailed) ||
		errors.Is(err, kafkago.InvalidTopic) || errors.Is(err, kafkago.UnknownTopicID)
}

// isSessionOver says that a broker has no memory of a producer, or of its last batches. It must begin another
// session.
func isSessionOver(err error) bool {
	return errors.Is(err, kafkago.OutOfOrderSequenceNumber) || errors.Is(err, kafkago.UnknownProducerId) ||
		errors.Is(err, kafkago.InvalidProducerEpoch) || errors.Is(err, kafkago.InvalidProducerIDMapping) ||
		errors.Is(err, kafkago.ProducerFenced)
}
