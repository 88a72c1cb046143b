package recordbatch

import (
	"bytes"
	"errors"
	"testing"
	"time"
)

// FuzzReader reads whatever comes as a fetch answer.
func FuzzReader(f *testing.F) {
	good := crafted{base: 5, records: values("a", "b")}.bytes(f)
	f.Add(good, int64(0))
	f.Add(append(good, good[:30]...), int64(6))
	for compression, codec := range codecs {
		f.Add(crafted{with: compression, codec: codec, records: values("aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", "b")}.bytes(f), int64(0))
	}
	f.Fuzz(func(t *testing.T, data []byte, from int64) {
		if len(data) > magicAt && complete(data) && data[magicAt] == currentMagic && len(data) > recordsAt {
			if h, err := readHeader(data); errors.Is(err, ErrChecksum) {
				sealed(data[:h.size]) // or nothing would get further
			}
		}
		fuzzed(t, data, from)
	})
}

// FuzzRecords reads whatever comes as the records of a batch, compressed in each way.
func FuzzRecords(f *testing.F) {
	for compression, codec := range codecs {
		data := crafted{with: compression, codec: codec, records: values("aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", "b")}.bytes(f)
		f.Add(data[recordsAt:], uint8(compression), int32(2), int32(1))
		written, err := Append(nil, []Record{{Value: bytes.Repeat([]byte("a"), 1000)}}, noon, NoProducer, false, compression)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(written[recordsAt:], uint8(compression), int32(1), int32(0))
	}
	f.Fuzz(func(t *testing.T, records []byte, compression uint8, count, last int32) {
		fuzzed(t, crafted{attributes: int16(compression % 8), count: int(count), last: int64(last), compressed: records}.bytes(t), 0)
	})
}

// fuzzed reads data to its end or its first error, within seconds, and in pieces of another size again with
// the same result. No decoder gets more memory than one window.
func fuzzed(t *testing.T, data []byte, from int64) {
	begin := time.Now()
	var before []Record
	for _, size := range []int{1000, 3} {
		r := NewReader(data, from, []AbortedTransaction{{1, 2}, {0, 0}}, Options{MaxValue: 100})
		r.memory = newBudget(maxWindow + zstdOverhead)
		got, err := readAll(t.Context(), r, size, 10_000)
		var batch *BatchError
		if err != nil && !errors.As(err, &batch) {
			t.Fatalf("got %v", err)
		}
		if r.Position() < from {
			t.Fatalf("position %d, from %d", r.Position(), from)
		}
		for i := range got {
			if got[i].Offset < from || got[i].Offset >= r.Position() || len(got[i].Key) > MaxKeyBytes || len(got[i].Value) > 100 {
				t.Fatalf("got %.100v", got[i])
			}
		}
		if before != nil && len(got) != len(before) {
			t.Fatalf("%d records, then %d", len(before), len(got))
		}
		before = got
	}
	if took := time.Since(begin); took > 10*time.Second {
		t.Fatalf("%d bytes took %v", len(data), took)
	}
}
