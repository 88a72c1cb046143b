package stream

import (
	"bytes"
	"encoding/binary"
	"hash/crc32"
	"time"

	"github.com/segmentio/kafka-go"
	"github.com/segmentio/kafka-go/protocol"
)

// Where a record batch (version 2) has what kafka-go leaves at -1, counted from the
// batch's beginning (Kafka's protocol guide, Record Batch).
const (
	batchChecksumAt      = 17 // CRC-32C of all that follows it
	batchAttributesAt    = 21
	batchProducerIDAt    = 43
	batchProducerEpochAt = 51
	batchBaseSequenceAt  = 53
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// toRecords are the records as kafka-go encodes them, all of the same time.
func toRecords(records []kafka.Message, now time.Time) []kafka.Record {
	out := make([]kafka.Record, len(records))
	for i := range records {
		record := &records[i]
		out[i] = kafka.Record{
			Time: now, Key: kafka.NewBytes(record.Key), Value: kafka.NewBytes(record.Value), Headers: record.Headers,
		}
	}
	return out
}

// plainBatch encodes records, at least one, as a batch of no transaction.
func plainBatch(records []kafka.Record) (protocol.RawRecordSet, error) {
	encoded, err := encodeBatch(records, 0)
	return protocol.RawRecordSet{Reader: encoded}, err
}

// transactionalBatch encodes records, at least one, as a batch of a transaction: kafka-go's
// encoding with the producer's session and the sequence number of the first record put in.
func transactionalBatch(records []kafka.Record, session kafka.ProducerSession, sequence int32) (protocol.RawRecordSet, error) {
	encoded, err := encodeBatch(records, protocol.Transactional)
	if err != nil {
		return protocol.RawRecordSet{}, err
	}
	const lengthBytes = 4 // in front of the batch
	batch := encoded.Bytes()[lengthBytes:]
	binary.BigEndian.PutUint64(batch[batchProducerIDAt:], uint64(session.ProducerID))
	binary.BigEndian.PutUint16(batch[batchProducerEpochAt:], uint16(session.ProducerEpoch))
	binary.BigEndian.PutUint32(batch[batchBaseSequenceAt:], uint32(sequence))
	binary.BigEndian.PutUint32(batch[batchChecksumAt:], crc32.Checksum(batch[batchAttributesAt:], castagnoli))
	return protocol.RawRecordSet{Reader: encoded}, nil
}

func encodeBatch(records []kafka.Record, attributes protocol.Attributes) (*bytes.Buffer, error) {
	set := protocol.RecordSet{Version: 2, Attributes: attributes, Records: kafka.NewRecordReader(records...)}
	var encoded bytes.Buffer
	_, err := set.WriteTo(&encoded)
	return &encoded, err
}

// sequenceAfter is the sequence number that follows so many records; after the largest
// comes 0.
func sequenceAfter(sequence int32, records int) int32 {
	return int32((int64(sequence) + int64(records)) & (1<<31 - 1))
}
