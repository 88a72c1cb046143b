package recordbatch

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/bits"
	"sync"

	"github.com/klauspost/compress/gzip"
)

// decoder decompresses the records of a batch piece by piece.
type decoder interface {
	// next returns further bytes, valid until it is called again; io.EOF at the end.
	next() ([]byte, error)
	// close gives back what the decoder holds. It is not used again.
	close()
}

// plan is how to decompress a batch. The compressed bytes tell beforehand how much memory that
// takes, since all of them are there.
type plan struct {
	bytes int64 // for the budget
	open  func() (decoder, error)
}

// maxWindow is how much decompressed data a batch may refer back to, or have in one block. It is
// what RFC 8878 asks of every decoder of zstd (levels up to 19 stay within it), twice the
// largest block of lz4, and far beyond the 64 KiB within which snappy's writers stay.
const maxWindow = 8 << 20

func planFor(compression Compression, records []byte) (plan, error) {
	switch compression {
	case None:
		return plan{open: func() (decoder, error) { return &plain{records}, nil }}, nil
	case Gzip:
		return plan{bytes: gzipBytes, open: func() (decoder, error) { return newGunzip(records) }}, nil
	case Snappy:
		return planSnappy(records)
	case LZ4:
		return planLZ4(records)
	case Zstd:
		return planZstd(records)
	}
	return plan{}, fmt.Errorf("%w: compression %d", ErrUnsupported, compression)
}

// corrupt is an error of a decoder for data that breaks its format.
func corrupt(format Compression, err error) error {
	if errors.Is(err, ErrUnsupported) {
		return err
	}
	return fmt.Errorf("%w: %v: %w", ErrCorrupt, format, err)
}

// Memory comes in size classes, each twice as large as the one before, so that what one batch
// has used serves another.
const (
	minClass = 64 << 10
	classes  = 8 // up to maxWindow
)

// classOf is the smallest class of at least so many bytes, at most maxWindow.
func classOf(n int) (class, size int) {
	class = max(bits.Len(uint(max(n, 1)-1))-bits.Len(minClass-1), 0)
	return class, minClass << class
}

// plain is a batch that is not compressed.
type plain struct{ rest []byte }

func (p *plain) next() ([]byte, error) {
	if len(p.rest) == 0 {
		return nil, io.EOF
	}
	run := p.rest
	p.rest = nil
	return run, nil
}

func (p *plain) close() {}

// blocks is a batch of blocks that are decompressed one by one, into the same buffer.
type blocks struct {
	buffer     []byte
	class      int
	decompress func(buffer []byte) ([]byte, error) // the next block
}

var blockBuffers [classes]sync.Pool // of *[]byte

func newBlocks(largest int, decompress func([]byte) ([]byte, error)) *blocks {
	class, size := classOf(largest)
	b := &blocks{class: class, decompress: decompress}
	if pooled, ok := blockBuffers[class].Get().(*[]byte); ok {
		b.buffer = *pooled
	} else {
		b.buffer = make([]byte, size)
	}
	return b
}

// planBlocks plans for blocks of at most so many bytes.
func planBlocks(largest int, decompress func([]byte) ([]byte, error)) plan {
	_, size := classOf(largest)
	return plan{bytes: int64(size), open: func() (decoder, error) { return newBlocks(largest, decompress), nil }}
}

func (b *blocks) next() ([]byte, error) { return b.decompress(b.buffer) }

func (b *blocks) close() {
	buffer := b.buffer
	b.buffer = nil
	blockBuffers[b.class].Put(&buffer)
}

// gunzip is a batch compressed by gzip.
type gunzip struct {
	source bytes.Reader
	reader *gzip.Reader
	buffer [streamBuffer]byte
}

const (
	streamBuffer = 32 << 10
	gzipBytes    = 128 << 10 // its window of 32 KiB, its tables, and the buffer
)

var gunzips = sync.Pool{New: func() any { return new(gunzip) }}

func newGunzip(records []byte) (decoder, error) {
	g := gunzips.Get().(*gunzip)
	g.source.Reset(records)
	var err error
	if g.reader == nil {
		g.reader, err = gzip.NewReader(&g.source)
	} else {
		err = g.reader.Reset(&g.source)
	}
	if err != nil {
		g.reader = nil
		return nil, corrupt(Gzip, err)
	}
	return g, nil
}

func (g *gunzip) next() ([]byte, error) { return readSome(g.reader, g.buffer[:], Gzip) }

func (g *gunzip) close() {
	g.source.Reset(nil)
	gunzips.Put(g)
}

// readSome reads what a decompressor has, at most the buffer full.
func readSome(from io.Reader, buffer []byte, format Compression) ([]byte, error) {
	n, err := from.Read(buffer)
	switch {
	case n > 0: // an error comes again
		return buffer[:n], nil
	case err == nil, errors.Is(err, io.EOF):
		return nil, err
	}
	return nil, corrupt(format, err)
}
