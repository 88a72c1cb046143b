//go:build real

package recordbatch_test

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	"github.com/twmb/franz-go/pkg/kversion"

	"tollgate/internal/kafka/recordbatch"
	"tollgate/internal/realtest"
)

// rig is a real Kafka and a client that sends what it is told.
type rig struct {
	*testing.T
	addr   string
	client *kgo.Client
}

func newRig(t *testing.T) *rig {
	kafka := realtest.StartKafka(t, realtest.KafkaOptions{
		Properties: func(string) string { return "log.cleaner.backoff.ms=100\nlog.retention.check.interval.ms=100\n" },
	})
	r := &rig{T: t, addr: kafka.Addr}
	// The last version whose fetch knows topics by their names.
	r.client = r.newClient(kgo.MaxVersions(kversion.V2_3_0()))
	return r
}

func (r *rig) newClient(options ...kgo.Opt) *kgo.Client {
	r.Helper()
	client, err := kgo.NewClient(append(options, kgo.SeedBrokers(r.addr))...)
	if err != nil {
		r.Fatal(err)
	}
	r.Cleanup(client.Close)
	return client
}

func (r *rig) create(topic string, config map[string]string) {
	r.Helper()
	request := kmsg.NewPtrCreateTopicsRequest()
	one := kmsg.NewCreateTopicsRequestTopic()
	one.Topic, one.NumPartitions, one.ReplicationFactor = topic, 1, 1
	for name, value := range config {
		c := kmsg.NewCreateTopicsRequestTopicConfig()
		c.Name, c.Value = name, &value
		one.Configs = append(one.Configs, c)
	}
	request.Topics = append(request.Topics, one)
	response, err := request.RequestWith(r.Context(), r.client)
	if err != nil || response.Topics[0].ErrorCode != 0 {
		r.Fatal(response, err)
	}
}

// produce writes a batch and returns its first offset.
func (r *rig) produce(topic string, batch []byte) int64 {
	r.Helper()
	request := kmsg.NewPtrProduceRequest()
	request.Acks, request.TimeoutMillis = -1, 60_000
	one, partition := kmsg.NewProduceRequestTopic(), kmsg.NewProduceRequestTopicPartition()
	partition.Records = batch
	one.Topic, one.Partitions = topic, append(one.Partitions, partition)
	request.Topics = append(request.Topics, one)
	var base int64
	realtest.Until(r, "a produced batch", func() bool { // the topic may be new
		response, err := request.RequestWith(r.Context(), r.client)
		if err != nil {
			r.Fatal(err)
		}
		answer := response.Topics[0].Partitions[0]
		if answer.ErrorCode != 0 && answer.ErrorCode != 3 {
			r.Fatalf("error %d: %v", answer.ErrorCode, answer.ErrorMessage)
		}
		base = answer.BaseOffset
		return answer.ErrorCode == 0
	})
	return base
}

func (r *rig) fetch(topic string, offset int64, bytes int32) (data []byte, aborted []recordbatch.AbortedTransaction) {
	r.Helper()
	request := kmsg.NewPtrFetchRequest()
	request.MaxWaitMillis, request.MinBytes, request.MaxBytes, request.IsolationLevel = 500, 1, bytes, 1
	one, partition := kmsg.NewFetchRequestTopic(), kmsg.NewFetchRequestTopicPartition()
	partition.FetchOffset, partition.PartitionMaxBytes = offset, bytes
	one.Topic, one.Partitions = topic, append(one.Partitions, partition)
	request.Topics = append(request.Topics, one)
	response, err := request.RequestWith(r.Context(), r.client)
	if err != nil {
		r.Fatal(err)
	}
	answer := response.Topics[0].Partitions[0]
	if answer.ErrorCode != 0 {
		r.Fatalf("error %d", answer.ErrorCode)
	}
	for _, transaction := range answer.AbortedTransactions {
		aborted = append(aborted, recordbatch.AbortedTransaction{transaction.ProducerID, transaction.FirstOffset})
	}
	return answer.RecordBatches, aborted
}

func keyed(keys ...string) []recordbatch.Record {
	var out []recordbatch.Record
	for _, key := range keys {
		out = append(out, recordbatch.Record{Key: []byte(key), Value: []byte(strings.Repeat("value of "+key, 10))})
	}
	return out
}

func TestOnRealKafka(t *testing.T) {
	r := newRig(t)
	for name, test := range map[string]func(*rig, *testing.T){
		"what is written, Kafka takes, and what Kafka compresses is read": (*rig).codecs,
		"a batch whose tail was compacted away is passed":                 (*rig).compaction,
		"aborted transactions are skipped":                                (*rig).transactions,
	} {
		t.Run(name, func(t *testing.T) { test(&rig{t, r.addr, r.client}, t) })
	}
}

// codecs: Kafka checks each batch, and where the topic has another compression writes it anew with
// Java's libraries.
func (r *rig) codecs(t *testing.T) {
	var records []recordbatch.Record
	for i := range 1000 {
		records = append(records, recordbatch.Record{Key: fmt.Appendf(nil, "key-%d", i), Value: fmt.Appendf(nil, `{"n": %d, "text": %q}`, i, recordbatch.Text(i%700))})
	}
	ctx := t.Context()
	for topic, config := range map[string]map[string]string{
		"as-sent": {}, "gzip": {"compression.type": "gzip"}, "snappy": {"compression.type": "snappy"}, "lz4": {"compression.type": "lz4"},
		"zstd": {"compression.type": "zstd"}, "zstd-19": {"compression.type": "zstd", "compression.zstd.level": "19"},
		"zstd-22": {"compression.type": "zstd", "compression.zstd.level": "22"},
	} {
		config["max.message.bytes"] = "10000000"
		r.create(topic, config)
		sent := []recordbatch.Compression{recordbatch.None}
		if topic == "as-sent" {
			sent = []recordbatch.Compression{recordbatch.None, recordbatch.Gzip, recordbatch.Snappy, recordbatch.LZ4, recordbatch.Zstd}
		}
		for _, compression := range sent {
			batch, err := recordbatch.Append(nil, records, recordbatch.Noon, recordbatch.NoProducer, false, compression)
			if err != nil {
				t.Fatal(err)
			}
			base := r.produce(topic, batch)
			data, _ := r.fetch(topic, base, 10_000_000)
			h, err := recordbatch.ReadHeader(data)
			if err != nil {
				t.Fatal(err)
			}
			if want := compressionIn(topic, compression); h.Compression() != want {
				t.Errorf("%s: %v became %v", topic, compression, h.Compression())
			}
			reader := recordbatch.NewReader(data, base, nil, recordbatch.Options{})
			got, err := recordbatch.ReadAll(ctx, reader, 1000, 1<<20)
			if err != nil || len(got) != len(records) || reader.Position() != base+int64(len(records)) {
				t.Fatalf("%s, %v: %d records, %v", topic, compression, len(got), err)
			}
			t.Logf("%s: %v, %d bytes", topic, compression, len(data))
			for i := range records {
				recordbatch.SameContent(t, &got[i], &records[i])
			}
		}
	}
}

func compressionIn(topic string, sent recordbatch.Compression) recordbatch.Compression {
	name, _, _ := strings.Cut(topic, "-") // the level
	if c, err := recordbatch.ParseCompression(name); err == nil {
		return c
	}
	return sent
}

func (r *rig) compaction(t *testing.T) {
	const topic = "compacted"
	r.create(topic, map[string]string{
		"cleanup.policy": "compact", "segment.ms": "100", "min.cleanable.dirty.ratio": "0.001", "min.compaction.lag.ms": "0", "delete.retention.ms": "0",
	})
	send := func(keys ...string) {
		batch, err := recordbatch.Append(nil, keyed(keys...), time.Now(), recordbatch.NoProducer, false, recordbatch.LZ4)
		if err != nil {
			t.Fatal(err)
		}
		r.produce(topic, batch)
	}
	send("a", "b", "c", "d", "e", "f") // 0 to 5
	send("d", "e", "f")                // 6 to 8
	// The batch is still there, up to offset 5, but its records d, e, f are not.
	var data []byte
	realtest.Until(t, "compaction", func() bool {
		send("z") // the segment that is written to is never compacted
		data, _ = r.fetch(topic, 0, 1<<20)
		h, err := recordbatch.ReadHeader(data)
		if err != nil {
			t.Fatal(err)
		}
		return h.Last() == 5 && h.Count() == 3
	})
	for from, want := range map[int64]int{0: 3, 2: 1, 3: 0, 5: 0} {
		data, _ := r.fetch(topic, from, 1) // Kafka answers with one whole batch
		h, err := recordbatch.ReadHeader(data)
		if err != nil || h.First() != 0 || h.Last() != 5 {
			t.Fatalf("from %d: Kafka answers with %+v, %v", from, h, err)
		}
		reader := recordbatch.NewReader(data[:h.Size()], from, nil, recordbatch.Options{})
		got, err := recordbatch.ReadAll(t.Context(), reader, 10, 1<<20)
		if err != nil || len(got) != want || reader.Position() != 6 || reader.Epoch() != 0 {
			t.Errorf("from %d: %d records, position %d, epoch %d, %v", from, len(got), reader.Position(), reader.Epoch(), err)
		}
	}
}

func (r *rig) transactions(t *testing.T) {
	const topic = "transactions"
	r.create(topic, nil)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	send := func(producer *kgo.Client, value string) {
		if err := producer.ProduceSync(ctx, &kgo.Record{Value: []byte(value)}).FirstErr(); err != nil {
			t.Fatal(err)
		}
	}
	var producers []*kgo.Client
	for n := range 3 {
		producer := r.newClient(kgo.TransactionalID(fmt.Sprint("producer ", n)), kgo.DefaultProduceTopic(topic), kgo.ProducerBatchCompression(kgo.ZstdCompression()))
		if err := producer.BeginTransaction(); err != nil {
			t.Fatal(err)
		}
		producers = append(producers, producer)
	}
	plain := r.newClient(kgo.DefaultProduceTopic(topic))
	end := func(n int, how kgo.TransactionEndTry) {
		if err := producers[n].EndTransaction(ctx, how); err != nil {
			t.Fatal(err)
		}
	}
	var want []string
	for i := range 5 {
		for n, producer := range producers {
			word := "aborted"
			if n == 1 {
				word = "committed"
			}
			send(producer, fmt.Sprintf("%s %d by %d %s", word, i, n, bytes.Repeat([]byte("x"), 1000)))
		}
		send(plain, fmt.Sprint("plain ", i))
	}
	end(2, kgo.TryAbort) // in another order than they began
	end(1, kgo.TryCommit)
	end(0, kgo.TryAbort)
	if err := producers[0].BeginTransaction(); err != nil {
		t.Fatal(err)
	}
	send(producers[0], "committed afterwards")
	end(0, kgo.TryCommit)

	var data []byte
	var aborted []recordbatch.AbortedTransaction
	var all []recordbatch.Record
	realtest.Until(t, "the ends of the transactions", func() bool {
		data, aborted = r.fetch(topic, 0, 1<<20)
		var err error
		if all, err = recordbatch.ReadAll(ctx, recordbatch.NewReader(data, 0, nil, recordbatch.Options{}), 3, 1<<20); err != nil {
			t.Fatal(err)
		}
		return len(all) == 21
	})
	if len(aborted) != 2 {
		t.Fatalf("Kafka lists %v", aborted)
	}
	for i := range all {
		if !strings.HasPrefix(string(all[i].Value), "aborted") {
			want = append(want, string(all[i].Value))
		}
	}
	reader := recordbatch.NewReader(data, 0, aborted, recordbatch.Options{})
	got, err := recordbatch.ReadAll(ctx, reader, 3, 1<<20)
	if err != nil || len(want) != 11 || !slices.Equal(recordbatch.Texts(got), want) || reader.Position() <= all[20].Offset+1 {
		t.Errorf("%d records of %d, position %d, %v", len(got), len(want), reader.Position(), err)
	}
}
