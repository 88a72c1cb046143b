package recordbatch

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"math"
	"strings"
	"testing"

	"github.com/segmentio/kafka-go/protocol"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	"pgregory.net/rapid"
)

// anyRecords are records as a producer may send them: with keys, values and headers that are
// absent, empty, short or long.
func anyRecords(t *rapid.T) []Record {
	text := rapid.OneOf(rapid.Just([]byte(nil)), rapid.Just([]byte{}), rapid.SliceOfN(rapid.Byte(), 1, 50),
		rapid.Map(rapid.IntRange(100, 20_000), func(n int) []byte { return bytes.Repeat([]byte("repeated "), n/9) }))
	header := rapid.Custom(func(t *rapid.T) protocol.Header {
		return protocol.Header{Key: rapid.StringN(0, 8, -1).Draw(t, "name"), Value: text.Draw(t, "value")}
	})
	record := rapid.Custom(func(t *rapid.T) Record {
		r := Record{Key: text.Draw(t, "key"), Value: text.Draw(t, "value")}
		if headers := rapid.SliceOfN(header, 0, 3).Draw(t, "headers"); len(headers) > 0 {
			r.Headers = headers
		}
		return r
	})
	return rapid.SliceOfN(record, 1, 12).Draw(t, "records")
}

func anyCompression(t *rapid.T) Compression {
	return rapid.SampledFrom([]Compression{None, Gzip, Snappy, LZ4, Zstd}).Draw(t, "compression")
}

// sameBytes tells nil from empty, as Kafka does.
func sameBytes(a, b []byte) bool { return bytes.Equal(a, b) && (a == nil) == (b == nil) }

func sameContent(t interface{ Fatalf(string, ...any) }, got, want *Record) {
	same := sameBytes(got.Key, want.Key) && sameBytes(got.Value, want.Value) && len(got.Headers) == len(want.Headers)
	for i := 0; same && i < len(want.Headers); i++ {
		same = got.Headers[i].Key == want.Headers[i].Key && sameBytes(got.Headers[i].Value, want.Headers[i].Value)
	}
	if !same {
		t.Fatalf("got %.200q %.200q %.200q\nwant %.200q %.200q %.200q", got.Key, got.Value, got.Headers, want.Key, want.Value, want.Headers)
	}
}

func TestWhatIsWrittenFranzGoReads(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		records, compression := anyRecords(t), anyCompression(t)
		producer := Producer{ID: rapid.Int64Min(-1).Draw(t, "producer"), Epoch: 3, Sequence: rapid.Int32Min(0).Draw(t, "sequence")}
		transactional := rapid.Bool().Draw(t, "transactional")
		before := []byte("what was there")
		out, err := Append(before, records, noon, producer, transactional, compression)
		if err != nil || !bytes.HasPrefix(out, before) {
			t.Fatalf("got %.20q, %v", out, err)
		}
		out = out[len(before):]
		var batch kmsg.RecordBatch
		if err := batch.ReadFrom(out); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(out, sealed(bytes.Clone(out))) {
			t.Fatal("the checksum is wrong")
		}
		if batch.Magic != 2 || int(batch.Length) != len(out)-12 || int(batch.NumRecords) != len(records) || int(batch.LastOffsetDelta) != len(records)-1 ||
			batch.FirstTimestamp != noon.UnixMilli() || batch.MaxTimestamp != noon.UnixMilli() || batch.PartitionLeaderEpoch != -1 ||
			batch.ProducerID != producer.ID || batch.ProducerEpoch != 3 || batch.FirstSequence != producer.Sequence || (batch.Attributes&0x10 != 0) != transactional {
			t.Fatalf("got %+v", batch)
		}
		used := Compression(batch.Attributes & 7)
		if used != compression && used != None {
			t.Fatalf("compressed with %v", used)
		}
		content, err := kgo.DefaultDecompressor().Decompress(batch.Records, kgo.CompressionCodecType(used))
		if err != nil {
			t.Fatal(err)
		}
		if used != None && len(batch.Records) >= len(content) {
			t.Fatalf("%v makes %d bytes of %d", used, len(batch.Records), len(content))
		}
		for i := range records {
			size, n := binary.Varint(content)
			var one kmsg.Record
			if err := one.ReadFrom(content[:n+int(size)]); err != nil {
				t.Fatal(err)
			}
			content = content[n+int(size):]
			got := Record{Key: one.Key, Value: one.Value}
			for _, header := range one.Headers {
				got.Headers = append(got.Headers, protocol.Header{Key: header.Key, Value: header.Value})
			}
			if int(one.OffsetDelta) != i {
				t.Fatalf("record %d has offset delta %d", i, one.OffsetDelta)
			}
			sameContent(t, &got, &records[i])
		}
	})
}

func TestWhatIsWrittenKafkaGoReads(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		records := anyRecords(t)
		out, err := Append(nil, records, noon, NoProducer, false, anyCompression(t))
		if err != nil {
			t.Fatal(err)
		}
		var set protocol.RecordSet
		if _, err := set.ReadFrom(bytes.NewReader(append(binary.BigEndian.AppendUint32(nil, uint32(len(out))), out...))); err != nil {
			t.Fatal(err)
		}
		for i := range records {
			one, err := set.Records.ReadRecord()
			if err != nil {
				t.Fatal(err)
			}
			key, _ := protocol.ReadAll(one.Key)
			value, _ := protocol.ReadAll(one.Value)
			sameContent(t, &Record{Key: key, Value: value, Headers: one.Headers}, &records[i])
			if one.Offset != int64(i) || !one.Time.Equal(noon) {
				t.Fatalf("record %d: offset %d, time %v", i, one.Offset, one.Time)
			}
		}
		if _, err := set.Records.ReadRecord(); !errors.Is(err, io.EOF) {
			t.Fatal("there are more records")
		}
	})
}

func TestABatchThatCompressionMakesLargerStaysAsItIs(t *testing.T) {
	for _, compression := range []Compression{Gzip, Snappy, LZ4, Zstd} {
		for _, c := range []struct {
			value string
			want  Compression
		}{{"x", None}, {strings.Repeat("x", 1000), compression}} {
			out, err := Append(nil, []Record{{Value: []byte(c.value)}}, noon, NoProducer, false, compression)
			if err != nil {
				t.Fatal(err)
			}
			if h, err := readHeader(out); err != nil || h.compression() != c.want {
				t.Errorf("%v, a value of %d bytes: %v, %v", compression, len(c.value), h.compression(), err)
			}
		}
	}
}

func TestABatchNeedsARecord(t *testing.T) {
	if out, err := Append([]byte("x"), nil, noon, NoProducer, false, LZ4); !errors.Is(err, ErrNoRecords) || string(out) != "x" {
		t.Errorf("got %q, %v", out, err)
	}
}

func TestACompressionIsKnownByItsName(t *testing.T) {
	for _, compression := range []Compression{None, Gzip, Snappy, LZ4, Zstd} {
		if got, err := ParseCompression(compression.String()); err != nil || got != compression {
			t.Errorf("%v: got %v, %v", compression, got, err)
		}
	}
	if _, err := ParseCompression("brotli"); err == nil || !strings.Contains(err.Error(), "none, gzip, snappy, lz4, zstd") {
		t.Errorf("got %v", err)
	}
	if _, err := Append(nil, []Record{{}}, noon, NoProducer, false, 7); err == nil {
		t.Error("there is a compression 7")
	}
}

func TestSequenceNumbersBeginAgainAfterTheLargest(t *testing.T) {
	for _, c := range []struct {
		sequence int32
		records  int
		want     int32
	}{
		{0, 1, 1},
		{math.MaxInt32 - 1, 1, math.MaxInt32},
		{math.MaxInt32, 1, 0}, // the Java client's DefaultRecordBatch.incrementSequence
		{math.MaxInt32 - 5, 10, 4},
	} {
		if got := NextSequence(c.sequence, c.records); got != c.want {
			t.Errorf("%d records after %d: %d, want %d", c.records, c.sequence, got, c.want)
		}
	}
}
