package recordbatch

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/segmentio/kafka-go/protocol"
)

// results are check results as in docs/messages.md, of different customers.
func results(n int) []Record {
	random := rand.New(rand.NewPCG(3, 4))
	records := make([]Record, n)
	for i := range records {
		customer := fmt.Sprintf("cust_%06d", random.IntN(100_000))
		granted, used, at := random.IntN(10_000), random.IntN(9_000), 1_771_431_921_437+int64(random.IntN(5000))
		id := fmt.Sprintf("%08x-%04x-%04x", random.Uint32(), random.IntN(1<<16), random.IntN(1<<16))
		records[i] = Record{
			Key: []byte(customer),
			Value: fmt.Appendf(nil, `{"request_id":%q,"allowed":true,"code":"included","customer_id":%q,"feature_id":"messages","entity_id":null,"required_balance":%d,`+
				`"balance":{"feature_id":"messages","granted":%d,"remaining":%d,"usage":%d,"unlimited":false,"overage_allowed":false,"max_purchase":null,"next_reset_at":%d,`+
				`"breakdown":[{"id":"pro/messages","plan_id":"pro","included_grant":%d,"prepaid_grant":0,"remaining":%d,"usage":%d,"unlimited":false,`+
				`"reset":{"interval":"month","resets_at":%d},"price":null,"expires_at":null}],"rollovers":[]},"flag":null,"usage_event_id":"balance.checks/%d/%d@%d","evaluated_at":%d}`,
				id, customer, random.IntN(5), granted, granted-used, used, at+2_000_000_000, granted, granted-used, used, at+2_000_000_000, random.IntN(12), random.IntN(1e7), at, at+3),
			Headers: []protocol.Header{{Key: "request-id", Value: []byte(id)}},
		}
	}
	return records
}

func BenchmarkAppend(b *testing.B) {
	for _, n := range []int{50, 500} {
		records := results(n)
		for _, compression := range []Compression{None, Gzip, Snappy, LZ4, Zstd} {
			b.Run(fmt.Sprintf("%v/%d", compression, n), func(b *testing.B) {
				b.ReportAllocs()
				var out []byte
				var err error
				for b.Loop() {
					if out, err = Append(out[:0], records, noon, NoProducer, false, compression); err != nil {
						b.Fatal(err)
					}
				}
				b.ReportMetric(float64(len(out))/float64(n), "bytes/record")
				b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*n), "ns/record")
			})
		}
	}
}

func BenchmarkReader(b *testing.B) {
	const n = 500
	for _, compression := range []Compression{None, Gzip, Snappy, LZ4, Zstd} {
		data, err := Append(nil, results(n), noon, NoProducer, false, compression)
		if err != nil {
			b.Fatal(err)
		}
		b.Run(compression.String(), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if got, err := readAll(b.Context(), NewReader(data, 0, nil, Options{}), n, 1<<20); err != nil || len(got) != n {
					b.Fatal(len(got), err)
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*n), "ns/record")
		})
	}
}
