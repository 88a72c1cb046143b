package stream

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"sync"
	"time"

	"github.com/segmentio/kafka-go"
	"github.com/segmentio/kafka-go/protocol"
	"github.com/segmentio/kafka-go/protocol/produce"
	"github.com/segmentio/kafka-go/protocol/rawproduce"
)

// encoding makes a batch of records for a partition.
type encoding func(to target, records []kafka.Record) (protocol.RawRecordSet, error)

// producePlainly writes the batches outside of any transaction.
func (p *Publisher) producePlainly(ctx context.Context, batches map[target][]kafka.Message) map[target]error {
	return p.produce(ctx, batches, "", func(_ target, records []kafka.Record) (protocol.RawRecordSet, error) { return plainBatch(records) })
}

// produce writes a batch for each of the partitions, those that one broker leads in one
// request, and says what went wrong with which. (kafka-go's Client.Produce makes a request
// of every partition.)
func (p *Publisher) produce(ctx context.Context, batches map[target][]kafka.Message, transactionalID string, encode encoding) map[target]error {
	ctx, cancel := context.WithTimeout(ctx, produceTimeout)
	defer cancel()
	failures := make(map[target]error, len(batches))
	byLeader := map[int][]target{}
	for to := range batches {
		topic, err := p.layoutOf(ctx, to.topic)
		if err != nil {
			failures[to] = err
			continue
		}
		byLeader[topic.leaders[to.partition]] = append(byLeader[topic.leaders[to.partition]], to)
	}
	var mutex sync.Mutex
	var asking sync.WaitGroup
	for _, targets := range byLeader {
		asking.Go(func() {
			some := p.produceToLeader(ctx, targets, batches, transactionalID, encode)
			mutex.Lock()
			defer mutex.Unlock()
			maps.Copy(failures, some)
		})
	}
	asking.Wait()
	return failures
}

// produceToLeader writes the batches of partitions that one broker leads.
func (p *Publisher) produceToLeader(ctx context.Context, targets []target, batches map[target][]kafka.Message, transactionalID string, encode encoding) map[target]error {
	request := &rawproduce.Request{
		TransactionalID: transactionalID, Acks: int16(kafka.RequireAll), Timeout: int32(produceTimeout.Milliseconds()),
	}
	now := time.Now()
	for _, to := range targets {
		batch, err := encode(to, toRecords(batches[to], now))
		if err != nil {
			return allFailed(targets, err)
		}
		request.Topics = append(request.Topics, rawproduce.RequestTopic{
			Topic: to.topic, Partitions: []rawproduce.RequestPartition{{Partition: int32(to.partition), RecordSet: batch}},
		})
	}
	response, err := p.client.Transport.RoundTrip(ctx, p.client.Addr, request)
	if err != nil {
		return allFailed(targets, err)
	}
	failures := allFailed(targets, errors.New("the broker answered without the partition"))
	for _, topic := range response.(*produce.Response).Topics {
		for _, partition := range topic.Partitions {
			failures[target{topic.Topic, int(partition.Partition)}] = errorOf(partition.ErrorCode, partition.ErrorMessage)
		}
	}
	return failures
}

func errorOf(code int16, message string) error {
	if code == 0 {
		return nil
	}
	return fmt.Errorf("%w %s", kafka.Error(code), message)
}

func allFailed(targets []target, err error) map[target]error {
	failures := make(map[target]error, len(targets))
	for _, to := range targets {
		failures[to] = err
	}
	return failures
}
