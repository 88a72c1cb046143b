package recordbatch

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/segmentio/kafka-go/compress"
	"github.com/segmentio/kafka-go/protocol"
	"github.com/twmb/franz-go/pkg/kmsg"
	"pgregory.net/rapid"
)

// TestWhatOthersWriteIsRead reads several batches of franz-go's encoding, cut into calls of any
// size and begun at any offset.
func TestWhatOthersWriteIsRead(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		var data []byte
		var want []Record
		var end int64
		for range rapid.IntRange(0, 4).Draw(rt, "batches") {
			c := crafted{base: end, with: anyCompression(rt), firstTime: 1_000_000, epoch: 5}
			c.codec = codecs[c.with]
			for i, record := range anyRecords(rt) {
				record.Offset, record.Time = end, time.UnixMilli(c.firstTime+int64(i)*7)
				one := kmsg.Record{OffsetDelta: int32(end - c.base), TimestampDelta64: int64(i) * 7, Key: record.Key, Value: record.Value}
				for _, header := range record.Headers {
					one.Headers = append(one.Headers, kmsg.Header{Key: header.Key, Value: header.Value})
				}
				c.records, want = append(c.records, one), append(want, record)
				end += rapid.Int64Range(1, 3).Draw(rt, "gap")
			}
			c.last = end - 1
			data = append(data, c.bytes(t)...)
		}
		from := rapid.Int64Range(0, end).Draw(rt, "from")
		want = slices.DeleteFunc(want, func(r Record) bool { return r.Offset < from })
		r := NewReader(data, from, nil, Options{})
		got, err := readAll(t.Context(), r, rapid.IntRange(1, 20).Draw(rt, "records"), rapid.IntRange(1, 100_000).Draw(rt, "bytes"))
		if err != nil || len(got) != len(want) || r.Position() != end || (end > 0 && r.Epoch() != 5) {
			rt.Fatalf("%d records of %d, position %d of %d, %v", len(got), len(want), r.Position(), end, err)
		}
		for i := range want {
			sameContent(rt, &got[i], &want[i])
			if got[i].Offset != want[i].Offset || !got[i].Time.Equal(want[i].Time) || got[i].Cut {
				rt.Fatalf("got %v, want %v", got[i], want[i])
			}
		}
	})
}

// TestWhatKafkaGoWritesIsRead: its snappy is framed, its lz4 has blocks of 4 MiB and a checksum.
func TestWhatKafkaGoWritesIsRead(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		want := anyRecords(t)
		var records []protocol.Record
		for i := range want {
			records = append(records, protocol.Record{
				Time: noon, Key: protocol.NewBytes(want[i].Key), Value: protocol.NewBytes(want[i].Value), Headers: want[i].Headers,
			})
		}
		var out bytes.Buffer
		set := protocol.RecordSet{Version: 2, Attributes: protocol.Attributes(compress.Compression(anyCompression(t))), Records: protocol.NewRecordReader(records...)}
		if _, err := set.WriteTo(&out); err != nil {
			t.Fatal(err)
		}
		got, err := readAll(context.Background(), NewReader(out.Bytes()[4:], 0, nil, Options{}), 5, 1<<20)
		if err != nil || len(got) != len(want) {
			t.Fatalf("%d records of %d, %v", len(got), len(want), err)
		}
		for i := range want {
			sameContent(t, &got[i], &want[i])
		}
	})
}

func TestABatchWhoseTailWasCompactedAwayIsPassed(t *testing.T) {
	r := NewReader(crafted{base: 10, last: 19, records: values("a", "b")}.bytes(t), 10, nil, Options{})
	got, done, err := r.Next(t.Context(), 1, 1000)
	if err != nil || done || len(got) != 1 || r.Position() != 11 {
		t.Fatalf("got %v, %t, %v, position %d", got, done, err, r.Position())
	}
	got, done, err = r.Next(t.Context(), 100, 1000)
	if err != nil || !done || len(got) != 1 || r.Position() != 20 {
		t.Errorf("got %v, %t, %v, position %d", got, done, err, r.Position())
	}
	// All that is behind offset 12 is gone.
	r = NewReader(crafted{base: 10, last: 19, records: values("a", "b")}.bytes(t), 12, nil, Options{})
	if got, done, err := r.Next(t.Context(), 100, 1000); err != nil || !done || len(got) != 0 || r.Position() != 20 {
		t.Errorf("got %v, %t, %v, position %d", got, done, err, r.Position())
	}
}

func TestAnEmptyBatchIsPassed(t *testing.T) {
	data := append(crafted{base: 10, last: 14, epoch: 3}.bytes(t), crafted{base: 15, epoch: 4, records: values("a")}.bytes(t)...)
	r := NewReader(data, 10, nil, Options{})
	got, err := readAll(t.Context(), r, 10, 1000)
	if err != nil || !slices.Equal(texts(got), []string{"a"}) || got[0].Offset != 15 || r.Position() != 16 || r.Epoch() != 4 {
		t.Errorf("got %v, %v, position %d, epoch %d", got, err, r.Position(), r.Epoch())
	}
}

func TestNoDataIsDoneAtOnce(t *testing.T) {
	r := NewReader(nil, 7, nil, Options{})
	if got, done, err := r.Next(t.Context(), 1, 1); got != nil || !done || err != nil || r.Position() != 7 || r.Epoch() != -1 {
		t.Errorf("got %v, %t, %v, position %d, epoch %d", got, done, err, r.Position(), r.Epoch())
	}
}

func TestACutOffLastBatchIsLeftForTheNextFetch(t *testing.T) {
	whole := crafted{base: 0, records: values("a", "b")}.bytes(t)
	next := crafted{base: 2, records: values("c", "d")}.bytes(t)
	for cut := range next {
		r := NewReader(append(bytes.Clone(whole), next[:cut]...), 0, nil, Options{})
		got, err := readAll(t.Context(), r, 10, 1000)
		if err != nil || !slices.Equal(texts(got), []string{"a", "b"}) || r.Position() != 2 {
			t.Fatalf("cut at %d: got %v, %v, position %d", cut, texts(got), err, r.Position())
		}
		if cut == 0 {
			continue
		}
		// What was asked for is in the batch that is cut off, also if older ones come before it.
		for _, before := range [][]byte{nil, whole} {
			r = NewReader(append(bytes.Clone(before), next[:cut]...), 2, nil, Options{})
			got, _, err := r.Next(t.Context(), 10, 1000)
			var batch *BatchError
			if len(got) > 0 || !errors.Is(err, ErrIncomplete) || !errors.As(err, &batch) {
				t.Fatalf("cut at %d: got %v, %v", cut, got, err)
			}
			if cut >= lengthEnd && (batch.Base != 2 || batch.Size != int64(len(next))) {
				t.Fatalf("cut at %d: %+v", cut, batch)
			}
		}
	}
}

func TestControlBatchesAndAbortedTransactionsAreSkipped(t *testing.T) {
	const transactional, control = transactionalBit, transactionalBit | controlBit
	marker := func(base, producer int64, kind byte) []byte {
		return crafted{base: base, attributes: control, producer: producer, records: []kmsg.Record{{Key: []byte{0, 0, 0, kind}, Value: make([]byte, 6)}}}.bytes(t)
	}
	const abort, commit = 0, 1
	sent := func(base, producer int64, texts ...string) []byte {
		return crafted{base: base, attributes: transactional, producer: producer, records: values(texts...)}.bytes(t)
	}
	data := slices.Concat(
		sent(0, 1, "aborted", "aborted"), // 0, 1
		sent(2, 2, "kept 2"),
		sent(3, 3, "aborted"),
		crafted{base: 4, producer: 1, records: values("kept 4")}.bytes(t), // not transactional
		marker(5, 2, commit),
		sent(6, 1, "aborted"),
		marker(7, 1, abort),
		sent(8, 1, "kept 8"),
		marker(9, 1, commit),
		marker(10, 3, abort),
		sent(11, 3, "aborted"),
		marker(12, 3, abort),
	)
	// As the broker lists them: in the order in which they ended.
	aborted := []AbortedTransaction{{1, 0}, {3, 3}, {3, 11}}
	slices.Reverse(aborted)
	for _, from := range []int64{0, 1, 2, 4, 7, 12} {
		var want []string
		for _, offset := range []int64{2, 4, 8} {
			if offset >= from {
				want = append(want, fmt.Sprint("kept ", offset))
			}
		}
		r := NewReader(data, from, aborted, Options{})
		got, err := readAll(t.Context(), r, 2, 1000)
		if err != nil || !slices.Equal(texts(got), want) || r.Position() != 13 {
			t.Errorf("from %d: got %q, %v, position %d", from, texts(got), err, r.Position())
		}
	}
	if got, err := readAll(t.Context(), NewReader(data, 0, nil, Options{}), 2, 1000); err != nil || len(got) != 8 {
		t.Errorf("uncommitted ones, too: got %q, %v", texts(got), err)
	}
}

func TestTheTimeIsTheProducersOrTheBrokers(t *testing.T) {
	records := []kmsg.Record{{TimestampDelta64: -5}, {OffsetDelta: 1, TimestampDelta64: 1 << 40}}
	for attributes, want := range map[int16][]int64{0: {1000 - 5, 1000 + 1<<40}, logAppendTimeBit: {77, 77}} {
		got, err := readAll(t.Context(), NewReader(crafted{attributes: attributes, firstTime: 1000, maxTime: 77, records: records}.bytes(t), 0, nil, Options{}), 9, 99)
		if err != nil || len(got) != 2 || got[0].Time.UnixMilli() != want[0] || got[1].Time.UnixMilli() != want[1] {
			t.Errorf("attributes %d: got %v, %v", attributes, got, err)
		}
	}
}

func TestWhatIsTooLargeIsCut(t *testing.T) {
	long := strings.Repeat("0123456789", 10_000)
	few := []kmsg.Header{{Key: "a", Value: []byte("1")}, {Key: "large", Value: []byte(long)}, {Key: "b", Value: []byte("2")}}
	many := make([]kmsg.Header, 5000)
	records := []kmsg.Record{
		{Value: []byte(long)},
		{OffsetDelta: 1, Key: []byte(long), Value: []byte("v")},
		{OffsetDelta: 2, Value: []byte("v"), Headers: few},
		{OffsetDelta: 3, Value: []byte("v"), Headers: many},
		{OffsetDelta: 4, Value: []byte(long[:1000]), Headers: few[:1]},
	}
	for compression, codec := range codecs {
		got, err := readAll(t.Context(), NewReader(crafted{with: compression, codec: codec, records: records}.bytes(t), 0, nil, Options{MaxValue: 1000}), 9, 1<<20)
		if err != nil || len(got) != len(records) {
			t.Fatalf("%v: %d records, %v", compression, len(got), err)
		}
		if r := got[0]; !r.Cut || string(r.Value) != long[:1000] || r.Size < len(long) || r.Size > len(long)+20 {
			t.Errorf("%v: the value has %d bytes, size %d, cut: %t", compression, len(r.Value), r.Size, r.Cut)
		}
		if r := got[1]; !r.Cut || string(r.Key) != long[:MaxKeyBytes] || string(r.Value) != "v" {
			t.Errorf("%v: the key has %d bytes, cut: %t", compression, len(r.Key), r.Cut)
		}
		if r := got[2]; !r.Cut || len(r.Headers) != 1 || r.Headers[0].Key != "a" || string(r.Headers[0].Value) != "1" {
			t.Errorf("%v: %d headers, cut: %t", compression, len(r.Headers), r.Cut)
		}
		if r := got[3]; !r.Cut || len(r.Headers) != MaxHeadersBytes/headerOverhead {
			t.Errorf("%v: %d headers, cut: %t", compression, len(r.Headers), r.Cut)
		}
		if r := got[4]; r.Cut || len(r.Value) != 1000 || len(r.Headers) != 1 {
			t.Errorf("%v: %d bytes, %d headers, cut: %t", compression, len(r.Value), len(r.Headers), r.Cut)
		}
	}
}

func TestNextReturnsAboutAsMuchAsIsAskedFor(t *testing.T) {
	var all []string
	for range 100 {
		all = append(all, strings.Repeat("x", 100))
	}
	data := slices.Concat(crafted{records: values(all[:60]...)}.bytes(t), crafted{base: 60, records: values(all[60:]...)}.bytes(t))
	r := NewReader(data, 0, nil, Options{})
	defer r.Close()
	for _, c := range []struct{ records, bytes, want, position int }{{7, 1 << 20, 7, 7}, {1000, 950, 10, 17}, {50, 1 << 20, 50, 67}, {1, 1, 1, 68}, {32, 1 << 20, 32, 100}} {
		got, done, err := r.Next(t.Context(), c.records, c.bytes)
		if err != nil || len(got) != c.want || r.Position() != int64(c.position) || done != (c.position == 100) {
			t.Fatalf("%+v: %d records, position %d, %t, %v", c, len(got), r.Position(), done, err)
		}
	}
}

// TestRecordsStayAsTheyAre while reading goes on, and the data is used for something else.
func TestRecordsStayAsTheyAre(t *testing.T) {
	for compression, codec := range codecs {
		var want []string
		for i := range 2000 {
			want = append(want, fmt.Sprintf("%d %s", i, strings.Repeat("x", i%300)))
		}
		data := crafted{with: compression, codec: codec, records: values(want...)}.bytes(t)
		got, err := readAll(t.Context(), NewReader(data, 0, nil, Options{}), 33, 1<<20)
		clear(data)
		for i := range got {
			_ = append(got[i].Value, "overwritten"...)
		}
		if err != nil || !slices.Equal(texts(got), want) {
			t.Errorf("%v: %d records, %v", compression, len(got), err)
		}
	}
}

func TestWhatNoReaderCanReadIsNamed(t *testing.T) {
	good := crafted{base: 40, records: values("a", "b")}.bytes(t)
	change := func(at int, to ...byte) []byte { return slices.Concat(good[:at], to, good[at+len(to):]) }
	old := slices.Concat(binary.BigEndian.AppendUint64(nil, 40), []byte{0, 0, 0, 22}, make([]byte, 4), []byte{1}, make([]byte, 17))
	for name, c := range map[string]struct {
		data []byte
		want error
	}{
		"a value that changed":                 {change(len(good)-2, 'x'), ErrChecksum},
		"a record count that changed":          {change(countAt, 0, 0, 0, 1), ErrChecksum},
		"magic 1":                              {old, ErrOldFormat},
		"magic 0":                              {change(magicAt, 0), ErrOldFormat},
		"magic 1, cut off":                     {old[:20], ErrOldFormat},
		"magic 3":                              {change(magicAt, 3), ErrUnsupported},
		"a length of nothing":                  {change(lengthAt, 0, 0, 0, 0), ErrCorrupt},
		"a length below 0":                     {change(lengthAt, 0xff, 0xff, 0xff, 0xff), ErrCorrupt},
		"a last offset before the first":       {sealed(change(lastOffsetDeltaAt, 0xff, 0xff, 0xff, 0xff)), ErrCorrupt},
		"fewer than no records":                {sealed(change(countAt, 0xff, 0xff, 0xff, 0xff)), ErrCorrupt},
		"fewer records than there are":         {sealed(change(countAt, 0, 0, 0, 1)), ErrCorrupt},
		"more records than there are":          {sealed(change(countAt, 0, 0, 0, 3)), ErrCorrupt},
		"two thousand million records":         {sealed(change(countAt, 0x7f, 0xff, 0xff, 0xff)), ErrCorrupt},
		"an offset beyond the batch's last":    {crafted{base: 40, last: 41, records: []kmsg.Record{{OffsetDelta: 2}}}.bytes(t), ErrCorrupt},
		"an offset before the batch's first":   {crafted{base: 40, last: 41, records: []kmsg.Record{{OffsetDelta: -1}}}.bytes(t), ErrCorrupt},
		"one offset twice":                     {crafted{base: 40, last: 41, records: []kmsg.Record{{}, {}}}.bytes(t), ErrCorrupt},
		"a compression of its own":             {crafted{base: 40, attributes: 7, records: values("a")}.bytes(t), ErrUnsupported},
		"a number that does not end":           {crafted{base: 40, count: 1, last: 40, raw: bytes.Repeat([]byte{0xff}, 50)}.bytes(t), ErrCorrupt},
		"a record below zero bytes":            {crafted{base: 40, count: 1, last: 40, raw: binary.AppendVarint(nil, -5)}.bytes(t), ErrCorrupt},
		"a record of a gigabyte":               {crafted{base: 40, count: 1, last: 40, raw: append(binary.AppendVarint(nil, 1<<30), 0, 0, 0, 1, 1, 0)}.bytes(t), ErrCorrupt},
		"a record of 2^40 bytes":               {crafted{base: 40, count: 1, last: 40, raw: append(binary.AppendVarint(nil, 1<<40), 0, 0, 0, 1, 1, 0)}.bytes(t), ErrCorrupt},
		"a record longer than its content":     {crafted{base: 40, count: 1, last: 40, raw: append(binary.AppendVarint(nil, 7), 0, 0, 0, 1, 1, 0, 9)}.bytes(t), ErrCorrupt},
		"a key longer than its record":         {crafted{base: 40, count: 1, last: 40, raw: append(binary.AppendVarint(nil, 6), 0, 0, 0, 100, 1, 0)}.bytes(t), ErrCorrupt},
		"more headers than its record":         {crafted{base: 40, count: 1, last: 40, raw: append(binary.AppendVarint(nil, 6), 0, 0, 0, 1, 1, 100)}.bytes(t), ErrCorrupt},
		"fewer than no headers":                {crafted{base: 40, count: 1, last: 40, raw: append(binary.AppendVarint(nil, 6), 0, 0, 0, 1, 1, 1)}.bytes(t), ErrCorrupt},
		"a header without a name":              {crafted{base: 40, count: 1, last: 40, raw: append(binary.AppendVarint(nil, 8), 0, 0, 0, 1, 1, 2, 1, 1)}.bytes(t), ErrCorrupt},
		"gzip that is none":                    {crafted{base: 40, count: 1, last: 40, attributes: int16(Gzip), raw: []byte("no gzip at all")}.bytes(t), ErrCorrupt},
		"snappy that is none":                  {crafted{base: 40, count: 1, last: 40, attributes: int16(Snappy), raw: []byte("\xff\xff")}.bytes(t), ErrCorrupt},
		"snappy that claims 8 MiB":             {crafted{base: 40, count: 1, last: 40, attributes: int16(Snappy), raw: binary.AppendUvarint(nil, 8<<20)}.bytes(t), ErrCorrupt},
		"lz4 that is none":                     {crafted{base: 40, count: 1, last: 40, attributes: int16(LZ4), raw: []byte("no lz4 at all")}.bytes(t), ErrCorrupt},
		"lz4 with a dictionary":                {crafted{base: 40, count: 1, last: 40, attributes: int16(LZ4), raw: []byte("\x04\x22\x4d\x18\x61\x40\x00")}.bytes(t), ErrUnsupported},
		"zstd that is none":                    {crafted{base: 40, count: 1, last: 40, attributes: int16(Zstd), raw: []byte("no zstd at all")}.bytes(t), ErrCorrupt},
		"nothing where there should be a gzip": {crafted{base: 40, count: 1, last: 40, attributes: int16(Gzip)}.bytes(t), ErrCorrupt},
	} {
		t.Run(name, func(t *testing.T) {
			before := crafted{base: 38, records: values("y", "z")}.bytes(t)
			r := NewReader(append(before, c.data...), 0, nil, Options{})
			defer r.Close()
			got, _, err := r.Next(t.Context(), 2, 1000)
			if err != nil || len(got) != 2 {
				t.Fatalf("before it: %v, %v", got, err)
			}
			got, err = readAll(t.Context(), r, 10, 1000)
			mustBe(t, err, c.want, 40)
			if r.Position() != 40+int64(len(got)) {
				t.Errorf("%d records, position %d", len(got), r.Position())
			}
		})
	}
}

func TestReadingGoesOnAfterTheContextEnded(t *testing.T) {
	want := make([]string, 300)
	for i := range want {
		want[i] = fmt.Sprintf("%d %s", i, strings.Repeat("abc", i))
	}
	for compression, codec := range codecs {
		r := NewReader(crafted{with: compression, codec: codec, records: values(want...)}.bytes(t), 0, nil, Options{})
		var got []string
		for n := 0; ; n++ {
			ctx, cancel := context.WithCancel(t.Context())
			if n%2 == 0 {
				cancel()
			}
			batch, done, err := r.Next(ctx, 7, 1<<20)
			cancel()
			got = append(got, texts(batch)...)
			if err != nil && !errors.Is(err, context.Canceled) {
				t.Fatal(err)
			}
			if done {
				break
			}
		}
		r.Close()
		if !slices.Equal(got, want) {
			t.Errorf("%v: got %d records", compression, len(got))
		}
	}
}
