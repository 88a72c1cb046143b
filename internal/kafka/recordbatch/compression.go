package recordbatch

import (
	"bytes"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/snappy"
	"github.com/klauspost/compress/snappy/xerial"
	"github.com/klauspost/compress/zstd"
	"github.com/pierrec/lz4/v4"
)

// Compression is how the records of a batch are compressed.
type Compression int8

// The numbers are those in a batch's attributes.
const (
	None Compression = iota
	Gzip
	Snappy
	LZ4
	Zstd
)

var compressionNames = [...]string{None: "none", Gzip: "gzip", Snappy: "snappy", LZ4: "lz4", Zstd: "zstd"}

// ParseCompression reads a name: none, gzip, snappy, lz4 or zstd.
func ParseCompression(name string) (Compression, error) {
	for c, known := range compressionNames {
		if name == known {
			return Compression(c), nil
		}
	}
	return None, fmt.Errorf("there is no compression %q, only %s", name, strings.Join(compressionNames[:], ", "))
}

func (c Compression) String() string {
	if c < 0 || int(c) >= len(compressionNames) {
		return fmt.Sprintf("compression %d", int8(c))
	}
	return compressionNames[c]
}

// Writers compress with little memory for whoever reads it: blocks of 64 KiB for lz4, 32 KiB for
// snappy (both as the Java client writes them), and a window of 1 MiB for zstd.
const zstdWindow = 1 << 20

// zstdEncoder is for all goroutines.
var zstdEncoder = sync.OnceValues(func() (*zstd.Encoder, error) {
	return zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithWindowSize(zstdWindow), zstd.WithEncoderCRC(false),
		zstd.WithLowerEncoderMem(true))
})

var (
	gzipWriters = sync.Pool{New: func() any { return gzip.NewWriter(nil) }}
	lz4Writers  = sync.Pool{New: func() any {
		w := lz4.NewWriter(nil)
		// They fail only for what is no valid option.
		_ = w.Apply(lz4.BlockSizeOption(lz4.Block64Kb), lz4.ChecksumOption(false))
		return w
	}}
)

// appendCompressed appends records as they are in a compressed batch.
func appendCompressed(dst, records []byte, c Compression) ([]byte, error) {
	switch c {
	case Gzip:
		w := gzipWriters.Get().(*gzip.Writer)
		defer gzipWriters.Put(w)
		return compressTo(dst, records, w)
	case Snappy:
		// Encode goes through a buffer of its own where there is no room for a block at its largest, and leaves
		// its header out behind what is there already.
		dst = slices.Grow(dst, xerialHeaderBytes+(len(records)/xerialBlockBytes+1)*(xerialLengthBytes+snappy.MaxEncodedLen(xerialBlockBytes)))
		return append(dst, xerial.Encode(dst[len(dst):], records)...), nil
	case LZ4:
		w := lz4Writers.Get().(*lz4.Writer)
		defer lz4Writers.Put(w)
		return compressTo(dst, records, w)
	case Zstd:
		encoder, err := zstdEncoder()
		if err != nil {
			return dst, fmt.Errorf("open a zstd encoder: %w", err)
		}
		return encoder.EncodeAll(records, dst), nil
	}
	return dst, fmt.Errorf("there is no %v", c)
}

type resettable interface {
	Reset(to io.Writer)
	Write(p []byte) (int, error)
	Close() error
}

func compressTo(dst, records []byte, w resettable) ([]byte, error) {
	to := bytes.NewBuffer(dst)
	w.Reset(to)
	defer w.Reset(nil) // it must not keep dst
	if _, err := w.Write(records); err != nil {
		return dst, fmt.Errorf("compress: %w", err)
	}
	if err := w.Close(); err != nil {
		return dst, fmt.Errorf("compress: %w", err)
	}
	return to.Bytes(), nil
}
