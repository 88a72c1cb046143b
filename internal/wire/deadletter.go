package wire

import (
	"fmt"
	"slices"
	"strconv"

	"github.com/segmentio/kafka-go"
)

// Headers of a dead letter, behind the record's own.
const (
	HeaderDeadReason    = "dlq-reason"
	HeaderDeadTopic     = "dlq-topic"
	HeaderDeadPartition = "dlq-partition"
	HeaderDeadOffset    = "dlq-offset"
	HeaderDeadTime      = "dlq-time"
	// HeaderDeadPartial is in front of them if the value is not all of what it was: it says how long that is.
	HeaderDeadPartial = "dlq-partial"
)

var deadHeaders = []string{HeaderDeadReason, HeaderDeadTopic, HeaderDeadPartition, HeaderDeadOffset, HeaderDeadTime}

// DeadLetter is the record for the dead-letter topic: key, value and headers as
// they were, and the reason. deadMs is the time of its death.
func DeadLetter(topic string, record *kafka.Message, reason string, deadMs int64) kafka.Message {
	headers := slices.Clone(record.Headers)
	for i, value := range []string{
		reason, record.Topic, strconv.Itoa(record.Partition), strconv.FormatInt(record.Offset, 10), strconv.FormatInt(deadMs, 10),
	} {
		headers = append(headers, kafka.Header{Key: deadHeaders[i], Value: []byte(value)})
	}
	return kafka.Message{Topic: topic, Partition: AnyPartition, Key: record.Key, Value: record.Value, Headers: headers}
}

// Partial says of a dead letter that its value is only the beginning of one with so many bytes. The whole record is
// where the other headers say, as long as the topic keeps it.
func Partial(dead kafka.Message, whole int) kafka.Message {
	at := len(dead.Headers) - len(deadHeaders)
	if at > 0 && dead.Headers[at-1].Key == HeaderDeadPartial { // it has become shorter once more
		return dead
	}
	value := fmt.Sprintf("the first %d of %d bytes", len(dead.Value), whole)
	dead.Headers = slices.Insert(slices.Clone(dead.Headers), at, kafka.Header{Key: HeaderDeadPartial, Value: []byte(value)})
	return dead
}

// Revived is the record that a dead letter was, with its topic and partition, and the
// reason of its death. A record may bear such headers of its own: the last ones count.
func Revived(dead *kafka.Message) (record kafka.Message, reason string, err error) {
	own := len(dead.Headers) - len(deadHeaders)
	if own < 0 {
		return record, "", fmt.Errorf("it has no %s header", HeaderDeadTopic)
	}
	if own > 0 && dead.Headers[own-1].Key == HeaderDeadPartial {
		return record, "", fmt.Errorf("it has only %s of its value; the whole record may still be where its headers say", dead.Headers[own-1].Value)
	}
	var values []string
	for i, name := range deadHeaders {
		header := dead.Headers[own+i]
		if header.Key != name {
			return record, "", fmt.Errorf("it has no %s header", name)
		}
		values = append(values, string(header.Value))
	}
	partition, err := strconv.Atoi(values[2])
	if err != nil {
		return record, "", fmt.Errorf("header %s: %w", HeaderDeadPartition, err)
	}
	return kafka.Message{
		Topic: values[1], Partition: partition, Key: dead.Key, Value: dead.Value, Headers: slices.Clone(dead.Headers[:own]),
	}, values[0], nil
}
