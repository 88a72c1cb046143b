package stream

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/segmentio/kafka-go"
	"github.com/segmentio/kafka-go/protocol"
	"github.com/segmentio/kafka-go/protocol/fetch"
)

const (
	fetchMaxWait = 5 * time.Second
	// FetchMaxBytes is what one fetch brings at the most, but for a batch of records that is
	// larger by itself.
	FetchMaxBytes = 1 << 20
	fetchGrace    = 10 * time.Second // beyond fetchMaxWait, until a fetch counts as failed
	readCommitted = 1
)

// Fetched is the answer to a fetch.
type Fetched struct {
	Records []kafka.Message
	Next    int64 // offset to fetch from next
	End     int64 // offset up to which the partition can be read
}

// Fetch reads committed records of a partition from an offset on, about so many bytes of
// them, waiting for some to come. kafka-go's Client.Fetch would do, but it does not tell which
// transactions were aborted: their records must not be decided on.
func Fetch(ctx context.Context, client *kafka.Client, topic string, partition int, offset int64, maxBytes int) (Fetched, error) {
	ctx, cancel := context.WithTimeout(ctx, fetchMaxWait+fetchGrace)
	defer cancel()
	response, err := client.Transport.RoundTrip(ctx, client.Addr, &fetch.Request{
		ReplicaID: -1, MaxWaitTime: int32(fetchMaxWait.Milliseconds()), MinBytes: 1, MaxBytes: int32(maxBytes),
		IsolationLevel: readCommitted, SessionID: -1, SessionEpoch: -1,
		Topics: []fetch.RequestTopic{{Topic: topic, Partitions: []fetch.RequestPartition{{
			Partition: int32(partition), CurrentLeaderEpoch: -1, FetchOffset: offset, LogStartOffset: -1,
			PartitionMaxBytes: int32(maxBytes),
		}}}},
	})
	if err != nil {
		return Fetched{}, fmt.Errorf("fetch: %w", err)
	}
	answer := response.(*fetch.Response)
	if answer.ErrorCode != 0 {
		return Fetched{}, fmt.Errorf("fetch: %w", kafka.Error(answer.ErrorCode))
	}
	if len(answer.Topics) != 1 || len(answer.Topics[0].Partitions) != 1 {
		return Fetched{}, errors.New("fetch: the broker answered without the partition")
	}
	part := &answer.Topics[0].Partitions[0]
	if part.ErrorCode != 0 {
		return Fetched{}, fmt.Errorf("fetch: %w", kafka.Error(part.ErrorCode))
	}
	f := Fetched{Next: offset, End: part.HighWatermark}
	// The broker lists them in the order in which they were aborted.
	slices.SortFunc(part.AbortedTransactions, func(a, b fetch.ResponseTransaction) int { return cmp.Compare(a.FirstOffset, b.FirstOffset) })
	reader := batchReader{topic: topic, partition: partition, highWatermark: part.HighWatermark, aborted: part.AbortedTransactions, aborting: map[int64]bool{}}
	if err := reader.read(part.RecordSet.Records, &f); err != nil {
		return Fetched{}, fmt.Errorf("fetch: %w", err)
	}
	return f, nil
}

// batchReader takes record batches apart, leaving out control records and what
// belongs to aborted transactions (the way of the Java client).
type batchReader struct {
	topic         string
	partition     int
	highWatermark int64
	aborted       []fetch.ResponseTransaction // in the order of their first offsets
	aborting      map[int64]bool              // by producer id
}

func (r *batchReader) read(records kafka.RecordReader, into *Fetched) error {
	batches := []kafka.RecordReader{records}
	if stream, ok := records.(*protocol.RecordStream); ok {
		batches = stream.Records
	}
	for _, batch := range batches {
		var err error
		switch b := batch.(type) {
		case nil:
		case *protocol.ControlBatch:
			err = r.readControl(b, into)
		case *protocol.RecordBatch:
			r.beginAborted(b.BaseOffset)
			err = r.readRecords(b, into, b.Attributes.Transactional() && r.aborting[b.ProducerID])
		default:
			err = r.readRecords(b, into, false)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// beginAborted notes the aborted transactions that begin at or before an offset.
func (r *batchReader) beginAborted(offset int64) {
	for len(r.aborted) > 0 && r.aborted[0].FirstOffset <= offset {
		r.aborting[r.aborted[0].ProducerID] = true
		r.aborted = r.aborted[1:]
	}
}

func (r *batchReader) readControl(batch *protocol.ControlBatch, into *Fetched) error {
	for {
		record, err := batch.ReadRecord()
		if errors.Is(err, io.EOF) {
			// Any marker ends its producer's transaction, aborted or not.
			delete(r.aborting, batch.ProducerID)
			return nil
		}
		if err != nil {
			return err
		}
		into.Next = max(into.Next, record.Offset+1)
	}
}

func (r *batchReader) readRecords(batch kafka.RecordReader, into *Fetched, skip bool) error {
	for {
		record, err := batch.ReadRecord()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		key, err := protocol.ReadAll(record.Key)
		if err != nil {
			return err
		}
		value, err := protocol.ReadAll(record.Value)
		if err != nil {
			return err
		}
		if record.Offset < into.Next {
			continue // a batch may begin before the offset that was asked for
		}
		into.Next = record.Offset + 1
		if !skip {
			into.Records = append(into.Records, kafka.Message{
				Topic: r.topic, Partition: r.partition, Offset: record.Offset, HighWaterMark: r.highWatermark,
				Key: key, Value: value, Headers: record.Headers, Time: record.Time,
			})
		}
	}
}
