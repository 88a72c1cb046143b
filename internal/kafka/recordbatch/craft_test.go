package recordbatch

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"os"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m, goleak.Cleanup(os.Exit)) }

// crafted is a batch as franz-go encodes it, an implementation of its own.
type crafted struct {
	base       int64
	last       int64 // 0 for that of the last record
	attributes int16 // without the compression
	codec      kgo.CompressionCodec
	with       Compression
	producer   int64
	epoch      int32
	firstTime  int64
	maxTime    int64
	count      int // 0 for that of the records
	records    []kmsg.Record
	raw        []byte // in place of records
	compressed []byte // in place of both
}

func (c crafted) bytes(t testing.TB) []byte {
	t.Helper()
	content := c.raw
	for _, record := range c.records {
		content = appendKmsg(content, record)
	}
	if c.with != None {
		compressor, err := kgo.DefaultCompressor(c.codec)
		if err != nil {
			t.Fatal(err)
		}
		var with kgo.CompressionCodecType
		if content, with = compressor.Compress(new(bytes.Buffer), content); int(with) != int(c.with) {
			t.Fatalf("compressed with %v", with)
		}
		content = bytes.Clone(content)
	}
	if c.compressed != nil {
		content = c.compressed
	}
	batch := kmsg.RecordBatch{
		FirstOffset: c.base, Length: int32(recordsAt - lengthEnd + len(content)), PartitionLeaderEpoch: c.epoch, Magic: 2,
		Attributes: c.attributes | int16(c.with), FirstTimestamp: c.firstTime, MaxTimestamp: c.maxTime, ProducerID: c.producer,
		NumRecords: int32(c.count), Records: content, LastOffsetDelta: int32(c.last - c.base),
	}
	if c.count == 0 {
		batch.NumRecords = int32(len(c.records))
	}
	if c.last == 0 && len(c.records) > 0 {
		batch.LastOffsetDelta = c.records[len(c.records)-1].OffsetDelta
	}
	return sealed(batch.AppendTo(nil))
}

// sealed has the right checksum.
func sealed(batch []byte) []byte {
	binary.BigEndian.PutUint32(batch[checksumAt:], crc32.Checksum(batch[attributesAt:], crc32.MakeTable(crc32.Castagnoli)))
	return batch
}

func appendKmsg(dst []byte, record kmsg.Record) []byte {
	record.Length = 0
	body := record.AppendTo(nil)[1:]
	return append(binary.AppendVarint(dst, int64(len(body))), body...)
}

// values are records of these values, one offset after the other.
func values(texts ...string) []kmsg.Record {
	var out []kmsg.Record
	for i, text := range texts {
		out = append(out, kmsg.Record{OffsetDelta: int32(i), Value: []byte(text)})
	}
	return out
}

var codecs = map[Compression]kgo.CompressionCodec{
	None: kgo.NoCompression(), Gzip: kgo.GzipCompression(), Snappy: kgo.SnappyCompression(), LZ4: kgo.Lz4Compression(), Zstd: kgo.ZstdCompression(),
}

// readAll reads to the end, a few records at a time.
func readAll(ctx context.Context, r *Reader, records, bytes int) ([]Record, error) {
	defer r.Close()
	var out []Record
	for {
		batch, done, err := r.Next(ctx, records, bytes)
		out = append(out, batch...)
		if err != nil || done {
			return out, err
		}
	}
}

func texts(records []Record) []string {
	out := []string{}
	for i := range records {
		out = append(out, string(records[i].Value))
	}
	return out
}

func mustBe(t *testing.T, err, want error, base int64) {
	t.Helper()
	var batch *BatchError
	if !errors.Is(err, want) || !errors.As(err, &batch) || batch.Base != base {
		t.Errorf("got %v, want: batch at offset %d: %v", err, base, want)
	}
}

var noon = time.UnixMilli(1771431921437)
