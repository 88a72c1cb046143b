package kafka

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	kafkago "github.com/segmentio/kafka-go"
	"github.com/segmentio/kafka-go/protocol"
	"github.com/twmb/franz-go/pkg/kmsg"

	"tollgate/internal/kafka/recordbatch"
)

const (
	// FetchMaxBytes is what a fetch brings of a partition at the most, unless a single batch of records is
	// larger.
	FetchMaxBytes = 1 << 20
	fetchGrace    = 10 * time.Second // beyond the wait of a fetch, until it counts as failed

	// Isolation levels.
	readUncommitted = 0
	readCommitted   = 1
)

// Truncated says that a log no longer has what was read from it: it ends before, or went on with other
// records. Whoever goes on at the same offset skips records, and whoever begins anew reads some twice.
type Truncated struct {
	Target
	Offset int64 // that was to be read next
	End    int64 // up to which the log is the one that was read
}

func (e *Truncated) Error() string {
	return fmt.Sprintf("the log of %s was truncated: it was read up to offset %d, and is another one from offset %d on", e.Target, e.Offset, e.End)
}

// Fetched is what a fetch brought of one partition.
type Fetched struct {
	From int64 // offset that was asked for
	Next int64 // offset behind the last whole batch
	End  int64 // offset up to which the partition is replicated
	// Epoch is that of the leader that the last batch came from, -1 for none.
	Epoch   int32
	data    []byte
	aborted []recordbatch.AbortedTransaction
}

// Reader takes the batches apart. Of a record's value it keeps so many bytes; see Cut.
func (f *Fetched) Reader(maxValueBytes int) *recordbatch.Reader {
	return recordbatch.NewReader(f.data, f.From, f.aborted, recordbatch.Options{MaxValue: maxValueBytes})
}

// wanted is what to fetch of a partition.
type wanted struct {
	Target
	id           TopicID
	offset       int64
	epoch        int32 // of the record before, -1 if it is not known
	leader       Partition
	fromFollower bool
}

// FetchesByID says whether brokers know topics by their ids when they are fetched from (Kafka 3.1 and later): a topic
// that was made again is then told from the one before it by every fetch.
func (b Broker) FetchesByID(ctx context.Context) (bool, error) {
	response, err := b.Client.ApiVersions(ctx, &kafkago.ApiVersionsRequest{})
	if err == nil {
		err = response.Error
	}
	if err != nil {
		return false, fmt.Errorf("read what the brokers know: %w", err)
	}
	for _, api := range response.ApiKeys {
		if api.ApiKey == int(protocol.Fetch) {
			return api.MaxVersion >= fetchByIDVersion, nil
		}
	}
	return false, nil
}

// fetchRequest makes a request for partitions that one broker has.
func fetchRequest(parts []wanted, wait time.Duration, maxBytes, partitionMaxBytes int, rack string) *kmsg.FetchRequest {
	request := kmsg.NewPtrFetchRequest()
	request.Version, request.ReplicaID, request.Rack = fetchByIDVersion, -1, rack
	request.MaxWaitMillis, request.MinBytes, request.MaxBytes = int32(wait.Milliseconds()), 1, int32(maxBytes)
	request.IsolationLevel, request.SessionID, request.SessionEpoch = readCommitted, 0, -1
	for i := range parts {
		if parts[i].id == (TopicID{}) {
			request.Version = fetchByNameVersion
		}
	}
	for i := range parts {
		p := &parts[i]
		part := kmsg.NewFetchRequestTopicPartition()
		part.Partition, part.FetchOffset, part.PartitionMaxBytes = int32(p.Partition), p.offset, int32(partitionMaxBytes)
		part.LastFetchedEpoch, part.LogStartOffset, part.CurrentLeaderEpoch = p.epoch, -1, p.leader.Epoch
		if n := len(request.Topics); n == 0 || request.Topics[n-1].Topic != p.Topic {
			request.Topics = append(request.Topics, kmsg.FetchRequestTopic{Topic: p.Topic, TopicID: p.id})
		}
		topic := &request.Topics[len(request.Topics)-1]
		topic.Partitions = append(topic.Partitions, part)
	}
	return request
}

// fetchFrom fetches from one broker. It calls got for each partition that the answer is about, and fails if
// there is none.
func (b Broker) fetchFrom(ctx context.Context, broker int32, request *kmsg.FetchRequest, got func(topic string, id TopicID, part *kmsg.FetchResponseTopicPartition)) error {
	ctx, cancel := context.WithTimeout(ctx, time.Duration(request.MaxWaitMillis)*time.Millisecond+fetchGrace)
	defer cancel()
	response, err := ask[*kmsg.FetchResponse](ctx, b, request, brokerWithID(broker))
	if err == nil {
		err = errorOf(response.ErrorCode)
	}
	if err != nil {
		return fmt.Errorf("fetch: %w", err)
	}
	for i := range response.Topics {
		topic := &response.Topics[i]
		for j := range topic.Partitions {
			got(topic.Topic, topic.TopicID, &topic.Partitions[j])
		}
	}
	return nil
}

// read makes sense of a partition's part of an answer. It fails with *Truncated, with kafka-go's
// OffsetOutOfRange, or with another error of a broker.
func (w *wanted) read(part *kmsg.FetchResponseTopicPartition) (Fetched, error) {
	if err := errorOf(part.ErrorCode); err != nil {
		return Fetched{}, fmt.Errorf("fetch from %s: %w", w.Target, err)
	}
	if part.DivergingEpoch.EndOffset >= 0 {
		return Fetched{}, &Truncated{w.Target, w.offset, part.DivergingEpoch.EndOffset}
	}
	f := Fetched{From: w.offset, Next: w.offset, End: part.HighWatermark, Epoch: -1, data: part.RecordBatches}
	for _, t := range part.AbortedTransactions {
		f.aborted = append(f.aborted, recordbatch.AbortedTransaction{ProducerID: t.ProducerID, FirstOffset: t.FirstOffset})
	}
	if err := f.scan(); err != nil {
		return Fetched{}, fmt.Errorf("fetch from %s: %w", w.Target, err)
	}
	return f, nil
}

// Where a record batch has what tells how far it goes (Kafka's protocol guide, Record Batch).
const (
	batchLengthAt      = 8
	batchEpochAt       = 12
	batchMagicAt       = 16
	batchLastDeltaAt   = 23
	batchHeaderBytes   = 61
	batchPrefixBytes   = 12 // in front of what the length counts
	newestMagic        = 2
	smallestBatchBytes = batchHeaderBytes - batchPrefixBytes
)

// scan finds out how far the whole batches go, without taking them apart. A batch whose last records were
// compacted away still goes as far as it once did.
func (f *Fetched) scan() error {
	for data := f.data; len(data) >= batchHeaderBytes; {
		base := int64(binary.BigEndian.Uint64(data))
		if magic := data[batchMagicAt]; magic != newestMagic {
			return fmt.Errorf("%w: message format %d at offset %d; Kafka 0.11 and later write format %d", recordbatch.ErrOldFormat, magic, base, newestMagic)
		}
		length := int(binary.BigEndian.Uint32(data[batchLengthAt:]))
		if length < smallestBatchBytes || batchPrefixBytes+length > len(data) {
			return nil
		}
		f.Next = max(f.Next, base+int64(binary.BigEndian.Uint32(data[batchLastDeltaAt:]))+1)
		f.Epoch = int32(binary.BigEndian.Uint32(data[batchEpochAt:]))
		data = data[batchPrefixBytes+length:]
	}
	return nil
}

// Records are what FetchRecords brings.
type Records struct {
	Messages []Message
	Next     int64 // offset to fetch from next
	End      int64 // offset up to which the partition is replicated
}

// mostValueBytes is more than the results and dead letters have that FetchRecords is for.
const mostValueBytes = 64 << 20

// recordsWait is how long FetchRecords waits for a record to come.
const recordsWait = 5 * time.Second

// FetchRecords reads committed records of a partition from an offset on, about so many bytes of them, waiting a
// while for some to come.
func (b Broker) FetchRecords(ctx context.Context, topic string, partition int, offset int64, maxBytes int) (Records, error) {
	at := Target{topic, partition}
	fetched, err := b.fetchOne(ctx, wanted{Target: at, offset: offset, epoch: -1}, recordsWait, maxBytes)
	if err != nil {
		return Records{}, err
	}
	reader := fetched.Reader(mostValueBytes)
	defer reader.Close()
	out := Records{End: fetched.End}
	for {
		records, done, err := reader.Next(ctx, mostAtOnce, FetchMaxBytes)
		if err != nil {
			return Records{}, fmt.Errorf("fetch from %s: %w", at, err)
		}
		out.Messages = append(out.Messages, at.Messages(records)...)
		if done {
			out.Next = reader.Position()
			return out, nil
		}
	}
}

// Probe fails if a partition cannot be read on from an offset: with *Truncated if it was there and is no longer, with
// kafka-go's OffsetOutOfRange if it lies below the first one. epoch is that of the leader from which the record before
// came, -1 if that is not known.
func (b Broker) Probe(ctx context.Context, at Target, offset int64, epoch int32) error {
	_, err := b.fetchOne(ctx, wanted{Target: at, offset: offset, epoch: epoch}, 0, 1)
	if !errors.Is(err, kafkago.OffsetOutOfRange) {
		return err
	}
	last, lastErr := b.LastOffset(ctx, at.Topic, at.Partition)
	if lastErr != nil {
		return lastErr
	}
	if offset > last {
		return &Truncated{at, offset, last}
	}
	return err
}

// TimeOf is when the first record at or behind an offset was written, zero if there is none to read.
func (b Broker) TimeOf(ctx context.Context, at Target, offset int64) (time.Time, error) {
	fetched, err := b.fetchOne(ctx, wanted{Target: at, offset: offset, epoch: -1}, 0, 1)
	if err != nil {
		return time.Time{}, err
	}
	reader := fetched.Reader(1)
	defer reader.Close()
	records, _, err := reader.Next(ctx, 1, 1)
	if err != nil || len(records) == 0 {
		return time.Time{}, err
	}
	return records[0].Time, nil
}

// fetchOne fetches from the leader of one partition.
func (b Broker) fetchOne(ctx context.Context, want wanted, wait time.Duration, maxBytes int) (Fetched, error) {
	leader, err := b.leader(ctx, want.Target)
	if err != nil {
		return Fetched{}, fmt.Errorf("fetch: %w", err)
	}
	want.leader = leader
	var fetched Fetched
	answered := errors.New("fetch: the broker answered without the partition")
	request := fetchRequest([]wanted{want}, wait, maxBytes, maxBytes, "")
	err = b.fetchFrom(ctx, want.leader.Leader, request, func(_ string, _ TopicID, part *kmsg.FetchResponseTopicPartition) {
		fetched, answered = want.read(part)
	})
	if err == nil {
		err = answered
	}
	if err != nil {
		b.forget()
	}
	return fetched, err
}

const mostAtOnce = 1000

// Cut is the WriterData of a record that is too large to be kept, of which there is only a part.
type Cut struct{ Bytes int }

// Messages are records as they were read.
func (t Target) Messages(records []recordbatch.Record) []Message {
	out := make([]Message, len(records))
	for i := range records {
		r := &records[i]
		out[i] = Message{Topic: t.Topic, Partition: t.Partition, Offset: r.Offset, Key: r.Key, Value: r.Value, Headers: r.Headers, Time: r.Time}
		if r.Cut {
			out[i].WriterData = Cut{r.Size}
		}
	}
	return out
}
