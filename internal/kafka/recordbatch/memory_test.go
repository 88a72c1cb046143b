package recordbatch

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"slices"
	"sync"
	"testing"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/pierrec/lz4/v4"
	"github.com/twmb/franz-go/pkg/kmsg"
	"pgregory.net/rapid"
)

// text is pseudo-random and does not compress well by itself, the same in every run.
func text(n int) []byte {
	random := rand.New(rand.NewPCG(1, 2))
	out := make([]byte, n)
	for i := range out {
		out[i] = "abcdefghijklmnopqrstuvwxyz012345"[random.IntN(32)]
	}
	return out
}

// bomb is a batch of so many records with values of so many bytes, all repeating a text.
func bomb(t testing.TB, compression Compression, records, size int, repeated []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	var w io.WriteCloser
	var err error
	switch compression {
	case Gzip:
		w = gzip.NewWriter(&out)
	case LZ4:
		w = lz4.NewWriter(&out) // with blocks of 4 MiB
	case Zstd:
		w, err = zstd.NewWriter(&out, zstd.WithEncoderConcurrency(1)) // with a window of 8 MiB
	}
	if err != nil {
		t.Fatal(err)
	}
	for i := range records {
		head := append(binary.AppendVarint([]byte{0, 0}, int64(i)), 1) // no key
		head = binary.AppendVarint(head, int64(size))
		if _, err := w.Write(append(binary.AppendVarint(nil, int64(len(head)+size+1)), head...)); err != nil {
			t.Fatal(err)
		}
		for left := size; left > 0; left -= len(repeated) {
			if _, err := w.Write(repeated[:min(left, len(repeated))]); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := w.Write([]byte{0}); err != nil { // no headers
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return crafted{attributes: int16(compression), count: records, last: int64(records - 1), compressed: out.Bytes()}.bytes(t)
}

// raceEnabled: under the race detector a sync.Pool drops a quarter of what it is given, and the
// heap says little.
var raceEnabled bool

// peakOf is how much the heap grows at most while something runs. Garbage is collected early, so
// that what is held is what counts.
func peakOf(run func()) (bytes uint64) {
	defer debug.SetGCPercent(debug.SetGCPercent(10))
	sample := []metrics.Sample{{Name: "/memory/classes/heap/objects:bytes"}}
	runtime.GC()
	runtime.GC() // what pools hold goes with the second
	metrics.Read(sample)
	before, peak := sample[0].Value.Uint64(), uint64(0)
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for {
			metrics.Read(sample)
			peak = max(peak, sample[0].Value.Uint64())
			select {
			case <-stop:
				return
			default:
				runtime.Gosched()
			}
		}
	}()
	run()
	close(stop)
	<-stopped
	return max(peak, before) - before
}

// TestABombTakesLittleMemory: a batch that kafka-go decompresses to 425 MB, or to 2 GB.
func TestABombTakesLittleMemory(t *testing.T) {
	const mib = 1 << 20
	for _, c := range []struct {
		compression   Compression
		records, size int
		repeated      int
		most          uint64
	}{
		{Zstd, 200, mib, 10, 16 * mib},
		{Zstd, 100, 10 * mib, 10, 16 * mib},
		{Zstd, 100, 10 * mib, 700_000, 16 * mib},
		{Gzip, 100, 10 * mib, 10, 6 * mib},
		{LZ4, 100, 10 * mib, 10, 12 * mib},
	} {
		t.Run(fmt.Sprintf("%v, %d of %d bytes", c.compression, c.records, c.size), func(t *testing.T) {
			repeated := text(c.repeated)
			for len(repeated) < 64<<10 {
				repeated = append(repeated, repeated...)
			}
			data := bomb(t, c.compression, c.records, c.size, repeated)
			read := 0
			peak := peakOf(func() {
				r := NewReader(data, 0, nil, Options{})
				defer r.Close()
				for {
					batch, done, err := r.Next(t.Context(), 500, 1<<20)
					if err != nil {
						t.Error(err)
					}
					for i := range batch {
						if record := &batch[i]; !record.Cut || record.Size < c.size || len(record.Value) != defaultMaxValue || !bytes.HasPrefix(repeated, record.Value[:100]) {
							t.Errorf("offset %d: %d bytes of %d, cut: %t", record.Offset, len(record.Value), record.Size, record.Cut)
						}
					}
					read += len(batch)
					if done || err != nil {
						return
					}
				}
			})
			t.Logf("%d bytes, at most %d KiB more on the heap", len(data), peak>>10)
			if read != c.records || (peak > c.most && !raceEnabled) {
				t.Errorf("%d records of %d, at most %d KiB more on the heap", read, c.records, peak>>10)
			}
		})
	}
}

func TestAMillionTinyRecordsTakeLittleMemory(t *testing.T) {
	const records = 1_000_000
	data := bomb(t, Zstd, records, 1, []byte("x"))
	read := 0
	peak := peakOf(func() {
		r := NewReader(data, 0, nil, Options{})
		defer r.Close()
		for done := false; !done; {
			batch, end, err := r.Next(t.Context(), 500, 1<<20)
			if err != nil {
				t.Error(err)
				return
			}
			read, done = read+len(batch), end
		}
	})
	t.Logf("%d bytes, at most %d KiB more on the heap", len(data), peak>>10)
	if read != records || (peak > 16<<20 && !raceEnabled) {
		t.Errorf("%d records, at most %d KiB more on the heap", read, peak>>10)
	}
}

// TestManyReadersShareTheMemory: each needs a window of 8 MiB, and together they have room for
// two of these.
func TestManyReadersShareTheMemory(t *testing.T) {
	const readers, records = 16, 24
	data := bomb(t, Zstd, records, 1<<20, text(700_000))
	memory := newBudget(2 * (maxWindow + zstdOverhead))
	peak := peakOf(func() {
		var group sync.WaitGroup
		for range readers {
			group.Go(func() {
				r := NewReader(data, 0, nil, Options{MaxValue: 100})
				r.memory = memory
				if got, err := readAll(t.Context(), r, 5, 1<<20); err != nil || len(got) != records {
					t.Errorf("%d records, %v", len(got), err)
				}
			})
		}
		group.Wait()
	})
	t.Logf("at most %d KiB more on the heap", peak>>10)
	if peak > 40<<20 && !raceEnabled { // all at once would take 144 MiB
		t.Errorf("at most %d KiB more on the heap", peak>>10)
	}
	if !memory.room.TryAcquire(2 * (maxWindow + zstdOverhead)) {
		t.Error("some memory was not given back")
	}
}

// TestAReaderWhoseDecoderWasTakenGoesOn: there is room for the decoder of one of them, and
// neither waits for the other.
func TestAReaderWhoseDecoderWasTakenGoesOn(t *testing.T) {
	var want []string
	for i := range 200 {
		want = append(want, fmt.Sprintf("%d %s", i, text(i)))
	}
	for compression, codec := range codecs {
		if compression == None {
			continue
		}
		data := crafted{with: compression, codec: codec, records: values(want...)}.bytes(t)
		plan, err := planFor(compression, data[recordsAt:])
		if err != nil {
			t.Fatal(err)
		}
		memory := newBudget(plan.bytes)
		readers := make([]*Reader, 3)
		got := make([][]string, len(readers))
		for i := range readers {
			readers[i] = NewReader(data, 0, nil, Options{})
			readers[i].memory = memory
		}
		for done := 0; done < len(readers); {
			for i, r := range readers {
				if r == nil {
					continue
				}
				batch, end, err := r.Next(t.Context(), 10+i, 1<<20)
				if err != nil {
					t.Fatal(err)
				}
				if got[i] = append(got[i], texts(batch)...); end {
					r.Close()
					readers[i] = nil
					done++
				}
			}
		}
		for i := range got {
			if !slices.Equal(got[i], want) {
				t.Errorf("%v: reader %d has %d records", compression, i, len(got[i]))
			}
		}
		if !memory.room.TryAcquire(plan.bytes) {
			t.Errorf("%v: some memory was not given back", compression)
		}
	}
}

func TestWaitingForMemoryEndsWithTheContext(t *testing.T) {
	data := crafted{with: Zstd, codec: codecs[Zstd], records: values(string(bytes.Repeat([]byte("a"), 1000)))}.bytes(t)
	memory := newBudget(2 << 20)
	if err := memory.acquire(t.Context(), 2<<20); err != nil {
		t.Fatal(err)
	}
	r := NewReader(data, 0, nil, Options{})
	defer r.Close()
	r.memory = memory
	ctx, cancel := context.WithCancel(t.Context())
	answer := make(chan error)
	go func() {
		_, _, err := r.Next(ctx, 1, 1)
		answer <- err
	}()
	cancel()
	if err := <-answer; !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	memory.room.Release(2 << 20)
	if got, done, err := r.Next(t.Context(), 1, 1); err != nil || !done || len(got) != 1 {
		t.Errorf("got %v, %t, %v", got, done, err)
	}
}

// zstdOf compresses records with a window of so many bytes, which the frame announces.
func zstdOf(t *testing.T, window int, records ...kmsg.Record) []byte {
	t.Helper()
	var out bytes.Buffer
	w, err := zstd.NewWriter(&out, zstd.WithWindowSize(window), zstd.WithEncoderConcurrency(1))
	if err != nil {
		t.Fatal(err)
	}
	for _, record := range records {
		if _, err := w.Write(appendKmsg(nil, record)); err != nil {
			t.Fatal(err)
		}
		if err := w.Flush(); err != nil { // or the frame would announce the size of its content
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	var header zstd.Header
	if err := header.Decode(out.Bytes()); err != nil || header.WindowSize != uint64(window) {
		t.Fatalf("the frame announces %d bytes, %v", header.WindowSize, err)
	}
	return crafted{attributes: int16(Zstd), count: len(records), last: int64(len(records) - 1), compressed: out.Bytes()}.bytes(t)
}

// TestAWindowCountsOnlyAsFarAsItIsUsed: the Java client announces one of 128 MiB at level 22,
// however small the batch is.
func TestAWindowCountsOnlyAsFarAsItIsUsed(t *testing.T) {
	const announced = 128 << 20
	random := text(12 << 20)
	small := zstdOf(t, announced, kmsg.Record{Value: random[:1<<20]}, kmsg.Record{OffsetDelta: 1, Value: random[:2000]})
	if plan, err := planFor(Zstd, small[recordsAt:]); err != nil || plan.bytes > 4<<20 {
		t.Errorf("%d bytes for a small batch, %v", plan.bytes, err)
	}
	if got, err := readAll(t.Context(), NewReader(small, 0, nil, Options{MaxValue: 2 << 20}), 9, 1<<30); err != nil || len(got) != 2 || !bytes.Equal(got[0].Value, random[:1<<20]) {
		t.Errorf("%d records, %v", len(got), err)
	}
	var near []kmsg.Record // each refers only to the one before, half of which it repeats
	for i := range 20 {
		near = append(near, kmsg.Record{OffsetDelta: int32(i), Value: random[i<<19 : (i+2)<<19]})
	}
	large := zstdOf(t, announced, near...)
	got, err := readAll(t.Context(), NewReader(large, 0, nil, Options{MaxValue: 2 << 20}), 9, 1<<30)
	if err != nil || len(got) != len(near) {
		t.Fatalf("%d records, %v", len(got), err)
	}
	for i := range got {
		if !bytes.Equal(got[i].Value, near[i].Value) {
			t.Errorf("record %d is another", i)
		}
	}
}

// TestAReferenceTooFarBackIsAnError, and not another value.
func TestAReferenceTooFarBackIsAnError(t *testing.T) {
	random := rand.NewChaCha8([32]byte{})
	far := make([]byte, 30_000)
	between := make([]byte, maxWindow+1<<20)
	_, _ = random.Read(far)
	_, _ = random.Read(between)
	data := zstdOf(t, 32<<20, kmsg.Record{Value: far}, kmsg.Record{OffsetDelta: 1, Value: between}, kmsg.Record{OffsetDelta: 2, Value: far})
	if len(data) > len(between)+len(far)+1000 {
		t.Fatal("the encoder made no reference")
	}
	got, err := readAll(t.Context(), NewReader(data, 0, nil, Options{}), 9, 1<<30)
	if len(got) != 2 {
		t.Errorf("%d records", len(got))
	}
	mustBe(t, err, ErrTooLarge, 0)
}

// TestTheLengthOfAnLZ4BlockIsKnownBeforehand: the buffer for it is no larger.
func TestTheLengthOfAnLZ4BlockIsKnownBeforehand(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var raw []byte
		for range rapid.IntRange(1, 20).Draw(t, "pieces") {
			piece := text(rapid.IntRange(0, 2000).Draw(t, "text"))
			raw = append(append(raw, piece...), bytes.Repeat([]byte("r"), rapid.IntRange(0, 5000).Draw(t, "repeated"))...)
		}
		block := make([]byte, lz4.CompressBlockBound(len(raw)))
		n, err := lz4.CompressBlock(raw, block, nil)
		if err != nil {
			t.Fatal(err)
		}
		if n > 0 && lz4DecodedLen(block[:n]) != len(raw) {
			t.Fatalf("%d bytes, not %d", lz4DecodedLen(block[:n]), len(raw))
		}
	})
}

// TestASizeIsNotBelieved: a frame of a few bytes that says it is one segment of 2^60.
func TestASizeIsNotBelieved(t *testing.T) {
	frame := append([]byte(zstdMagic), 0xe0)
	frame = binary.LittleEndian.AppendUint64(frame, 1<<60)
	frame = append(frame, 1|1<<1|100<<3&0xff, 100<<3>>8, 0, 'x') // one block, 100 times x
	data := crafted{attributes: int16(Zstd), count: 1, compressed: frame}.bytes(t)
	plan, err := planFor(Zstd, frame)
	if err != nil || plan.bytes > 2<<20 {
		t.Errorf("%d bytes, %v", plan.bytes, err)
	}
	_, err = readAll(t.Context(), NewReader(data, 0, nil, Options{}), 9, 99)
	mustBe(t, err, ErrCorrupt, 0)
	// Raw snappy that really holds more than a window.
	large := make([]byte, maxWindow+1)
	data = crafted{with: Snappy, codec: codecs[Snappy], records: []kmsg.Record{{Value: large}}}.bytes(t)
	_, err = readAll(t.Context(), NewReader(data, 0, nil, Options{}), 9, 99)
	mustBe(t, err, ErrTooLarge, 0)
}
