package kafka

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	kafkago "github.com/segmentio/kafka-go"
	"github.com/twmb/franz-go/pkg/kmsg"

	"tollgate/internal/kafka/recordbatch"
)

// session is one producer, as brokers know it: by its id and epoch they tell a batch that is sent again from a
// new one. Invariant: of each partition at most one batch is under way, and it is sent again unchanged until its
// fate is known.
type session struct {
	publisher *Publisher
	begun     bool
	producer  recordbatch.Producer
	sequences map[Target]int32 // of the next record
}

// begin asks the cluster for a producer id. With a transactional id it also ends what was open under that, and
// fences whoever had it.
func (s *session) begin(ctx context.Context, transactionalID string, timeout time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	request := kmsg.NewPtrInitProducerIDRequest()
	request.Version, request.ProducerID, request.ProducerEpoch = initProducerVersion, -1, -1 // whatever was there before
	request.TransactionTimeoutMillis = int32(timeout.Milliseconds())
	to := anyBroker
	if transactionalID != "" {
		request.TransactionalID, to = &transactionalID, transactionCoordinatorOf(transactionalID)
	}
	response, err := ask[*kmsg.InitProducerIDResponse](ctx, s.publisher.broker, request, to)
	if err == nil {
		err = errorOf(response.ErrorCode)
	}
	if err != nil {
		return fmt.Errorf("begin a producer session: %w", err)
	}
	s.begun, s.sequences = true, map[Target]int32{}
	s.producer = recordbatch.Producer{ID: response.ProducerID, Epoch: response.ProducerEpoch}
	return nil
}

// writeIdempotently writes a batch for each of the partitions and says what went wrong with which.
func (p *Publisher) writeIdempotently(ctx context.Context, s *session, batches map[Target][]Message, confirm confirmation) map[Target]error {
	if !s.begun {
		if err := s.begin(ctx, "", 0); err != nil {
			return allFailed(slices.Collect(maps.Keys(batches)), err)
		}
	}
	failures := p.produce(ctx, s, "", batches, confirm)
	for _, err := range failures {
		if isSessionOver(err) {
			s.begun = false
		}
	}
	return failures
}

// produce writes the batches, those that one broker leads in one request.
func (p *Publisher) produce(ctx context.Context, s *session, transactionalID string, batches map[Target][]Message, confirm confirmation) map[Target]error {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	failures := make(map[Target]error, len(batches))
	byLeader := map[int32][]Target{}
	for to := range batches {
		leader, err := p.broker.leader(ctx, to)
		if err != nil {
			failures[to] = err
			continue
		}
		byLeader[leader.Leader] = append(byLeader[leader.Leader], to)
	}
	var mutex sync.Mutex
	var asking sync.WaitGroup
	for leader, targets := range byLeader {
		asking.Go(func() {
			some := p.produceTo(ctx, leader, s, transactionalID, targets, batches, confirm)
			mutex.Lock()
			defer mutex.Unlock()
			maps.Copy(failures, some)
		})
	}
	asking.Wait()
	for to, batch := range batches {
		if failures[to] == nil {
			s.sequences[to] = recordbatch.NextSequence(s.sequences[to], len(batch))
		}
	}
	return failures
}

// produceTo writes the batches of partitions that one broker leads.
func (p *Publisher) produceTo(ctx context.Context, leader int32, s *session, transactionalID string, targets []Target, batches map[Target][]Message, confirm confirmation) map[Target]error {
	request := kmsg.NewPtrProduceRequest()
	request.Version, request.Acks, request.TimeoutMillis = produceVersion, int16(kafkago.RequireAll), int32(askTimeout.Milliseconds())
	if transactionalID != "" {
		request.TransactionID = &transactionalID
	}
	now := time.Now()
	for _, to := range targets {
		producer := s.producer
		producer.Sequence = s.sequences[to]
		encoded, err := recordbatch.Append(nil, records(batches[to]), now, producer, transactionalID != "", p.options.Compression)
		if err != nil {
			return allFailed(targets, err)
		}
		part := kmsg.NewProduceRequestTopicPartition()
		part.Partition, part.Records = int32(to.Partition), encoded
		request.Topics = append(request.Topics, kmsg.ProduceRequestTopic{Topic: to.Topic, Partitions: []kmsg.ProduceRequestTopicPartition{part}})
	}
	if err := confirm(ctx); err != nil {
		return allFailed(targets, err)
	}
	response, err := ask[*kmsg.ProduceResponse](ctx, p.broker, request, brokerWithID(leader))
	if err != nil {
		return allFailed(targets, fmt.Errorf("produce: %w", err))
	}
	failures := allFailed(targets, errors.New("produce: the broker answered without the partition"))
	for _, topic := range response.Topics {
		for i := range topic.Partitions {
			part := &topic.Partitions[i]
			failures[Target{topic.Topic, int(part.Partition)}] = produceError(part)
		}
	}
	return failures
}

func produceError(part *kmsg.ProduceResponseTopicPartition) error {
	err := errorOf(part.ErrorCode)
	switch {
	case err == nil, errors.Is(err, kafkago.DuplicateSequenceNumber): // it was written, and the answer lost
		return nil
	case part.ErrorMessage != nil:
		return fmt.Errorf("%w: %s", err, *part.ErrorMessage)
	default:
		return err
	}
}

func records(messages []Message) []recordbatch.Record {
	out := make([]recordbatch.Record, len(messages))
	for i := range messages {
		m := &messages[i]
		out[i] = recordbatch.Record{Key: m.Key, Value: m.Value, Headers: m.Headers}
	}
	return out
}

func allFailed(targets []Target, err error) map[Target]error {
	failures := make(map[Target]error, len(targets))
	for _, to := range targets {
		failures[to] = err
	}
	return failures
}
