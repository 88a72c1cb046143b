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

// Revived is the record that a dead letter was, with its topic and partition, and the
// reason of its death. A record may bear such headers of its own: the last ones count.
func Revived(dead *kafka.Message) (record kafka.Message, reason string, err error) {
	own := len(dead.Headers) - len(deadHeaders)
	if own < 0 {
		return record, "", fmt.Errorf("it has no %s header", HeaderDeadTopic)
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
