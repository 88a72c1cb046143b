package main

import (
	"bytes"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/segmentio/kafka-go"
	"github.com/twmb/franz-go/pkg/kgo"

	"tollgate/internal/client"
	"tollgate/internal/proctest"
	"tollgate/internal/servertest"
)

// TestSmallBatchesOfLargeRecordsTakeLittleMemory is a regression test: one batch of 200 records of 1 MB, which is a few
// kilobytes compressed, took 425 MB, and a worker that is ended for its memory hands it on to the next.
func TestSmallBatchesOfLargeRecordsTakeLittleMemory(t *testing.T) {
	const most = 256 << 20 // bytes; what docs/reliability.md promises
	d := proctest.NewDeployment(t)
	worker, _ := d.StartReady(t)
	d.Command(t, "acme", `{"type":"customer.put","customer_id":"acme"}`)
	sent := 0
	for _, bomb := range []struct {
		records, size int
		compression   kgo.CompressionCodec
	}{
		{200, 1 << 20, kgo.ZstdCompression()},
		{20, 10 << 20, kgo.ZstdCompression()},
		{100, 1 << 20, kgo.Lz4Compression()},
		{100, 1 << 20, kgo.GzipCompression()},
	} {
		sender, err := kgo.NewClient(
			kgo.SeedBrokers(d.Broker.Addresses...), kgo.ProducerBatchCompression(bomb.compression), kgo.ProducerBatchMaxBytes(1<<30), kgo.BrokerMaxWriteBytes(1<<30),
			kgo.MaxBufferedBytes(1<<30), kgo.ProducerLinger(time.Second), kgo.RecordPartitioner(kgo.ManualPartitioner()),
		)
		if err != nil {
			t.Fatal(err)
		}
		for partition := range int32(2) { // at a time
			value := fmt.Appendf(nil, `{"customer_id":"acme","feature_id":"messages","padding":%q}`, strings.Repeat("x", bomb.size))
			var records []*kgo.Record
			for range bomb.records {
				records = append(records, &kgo.Record{Topic: d.Topics.Checks, Partition: partition, Key: []byte("acme"), Value: value})
			}
			if err := sender.ProduceSync(t.Context(), records...).FirstErr(); err != nil {
				t.Fatal(err)
			}
			sent += len(records)
		}
		sender.Close()
	}
	results := servertest.NewDrain(t, d.Broker, d.Topics.CheckResults)
	answered := map[string]bool{}
	var peak int64
	servertest.UntilWithin(t, 10*time.Minute, "all are answered", func() bool {
		peak = max(peak, worker.ResidentBytes(t))
		records, err := results.Next(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, record := range records {
			mustSayTooLarge(t, record)
			answered[client.RequestID(record.Headers)] = true
		}
		return len(answered) == sent
	})
	t.Logf("%d records were answered with %d MiB at the most", sent, peak>>20)
	if peak > most {
		t.Errorf("the worker took %d MiB", peak>>20)
	}
}

func mustSayTooLarge(t *testing.T, record kafka.Message) {
	t.Helper()
	if !bytes.Contains(record.Value, []byte(`"invalid_request"`)) || !bytes.Contains(record.Value, []byte("larger than 65536 bytes")) ||
		!bytes.Contains(record.Value, []byte(`"customer_id":"acme"`)) {
		t.Fatalf("got %.500s", record.Value)
	}
}
