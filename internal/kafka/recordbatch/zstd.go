package recordbatch

import (
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/klauspost/compress/zstd"
)

// zstdOverhead is what a decoder takes beside its window: two blocks more of history, and the
// buffers and tables for one block.
const zstdOverhead = 1 << 20

const (
	zstdMagic           = "\x28\xb5\x2f\xfd"
	zstdChecksumBytes   = 4
	zstdBlockHeader     = 3
	zstdMaxBlock        = 128 << 10
	zstdSingleSegment   = 1 << 5 // of the frame header's descriptor
	zstdWindowBase      = 10     // its exponent begins here
	zstdDescriptorBytes = len(zstdMagic) + 1
)

var errZstdFrame = errors.New("a frame is shorter or longer than it says")

// planZstd finds the window that the batch really needs. A writer announces the window of its
// compression level (2 MiB at the Java client's default level, 128 MiB at its highest) in every
// batch, however small; but no batch refers further back than to its own beginning.
func planZstd(records []byte) (plan, error) {
	window := 0
	for rest := records; len(rest) > 0; {
		frame, err := readZstdFrame(rest)
		if err != nil {
			return plan{}, corrupt(Zstd, err)
		}
		window = max(window, int(frame.window))
		rest = rest[frame.size:]
	}
	class, size := classOf(window)
	return plan{bytes: int64(size + zstdOverhead), open: func() (decoder, error) { return newUnzstd(records, class, size) }}, nil
}

// zstdFrame is a frame whose header announces the window that it needs.
type zstdFrame struct {
	header  []byte // in place of the first headerN bytes
	headerN int
	size    int // of the frame, as it is in the batch
	window  uint64
	// clipped says that the frame may refer further back than its window now allows.
	clipped bool
}

func readZstdFrame(data []byte) (zstdFrame, error) {
	var h zstd.Header
	if err := h.Decode(data); err != nil {
		return zstdFrame{}, err
	}
	f := zstdFrame{header: data[:h.HeaderSize], headerN: h.HeaderSize}
	if h.Skippable {
		f.size = h.HeaderSize + int(h.SkippableSize)
		if f.size > len(data) {
			return zstdFrame{}, errZstdFrame
		}
		return f, nil
	}
	content, n, err := zstdBlocks(data[h.HeaderSize:])
	if err != nil {
		return zstdFrame{}, err
	}
	f.size = h.HeaderSize + n
	if h.HasCheckSum {
		f.size += zstdChecksumBytes
	}
	if f.size > len(data) {
		return zstdFrame{}, errZstdFrame
	}
	announced := h.WindowSize
	if h.SingleSegment {
		announced = h.FrameContentSize
	}
	f.window = announced
	if needed := max(min(content, maxWindow), zstdMaxBlock); needed < announced {
		f.header, f.window = zstdHeader(data[:h.HeaderSize], needed, h.SingleSegment)
		f.clipped = content > maxWindow
	}
	return f, nil
}

// zstdBlocks walks over the blocks of a frame: how much they hold at most when decompressed, and
// how many bytes they have.
func zstdBlocks(data []byte) (content uint64, size int, err error) {
	for last := false; !last; {
		if len(data)-size < zstdBlockHeader {
			return 0, 0, errZstdFrame
		}
		h := int(data[size]) | int(data[size+1])<<8 | int(data[size+2])<<16
		size += zstdBlockHeader
		last = h&1 != 0
		n := h >> 3
		switch h >> 1 & 3 {
		case 0: // as it is
			content += uint64(n)
			size += n
		case 1: // one byte, repeated
			content += uint64(n)
			size++
		case 2: // compressed
			content += zstdMaxBlock
			size += n
		default:
			return 0, 0, zstd.ErrReservedBlockType
		}
		if size > len(data) {
			return 0, 0, errZstdFrame
		}
	}
	return content, size, nil
}

// zstdHeader rewrites a frame header so that it announces a window of at least needed bytes.
func zstdHeader(header []byte, needed uint64, singleSegment bool) (rewritten []byte, window uint64) {
	var exponent, eighths uint64
	for uint64(1)<<(zstdWindowBase+exponent+1) <= needed {
		exponent++
	}
	base := uint64(1) << (zstdWindowBase + exponent)
	for base+eighths*base/8 < needed {
		eighths++
	}
	if eighths == 8 {
		exponent, base, eighths = exponent+1, 2*base, 0
	}
	rewritten = append(make([]byte, 0, len(header)+1), header[:zstdDescriptorBytes]...)
	rewritten[len(zstdMagic)] &^= zstdSingleSegment
	rewritten = append(rewritten, byte(exponent<<3|eighths))
	rest := header[zstdDescriptorBytes:]
	if !singleSegment {
		rest = rest[1:] // the window it had
	}
	return append(rewritten, rest...), base + eighths*base/8
}

// zstdInput is the batch with its frames' headers rewritten.
type zstdInput struct {
	header  []byte // not yet read
	body    []byte // of the frame, not yet read
	rest    []byte // further frames
	clipped bool   // some frame so far
}

func (z *zstdInput) Read(into []byte) (int, error) {
	for len(z.header) == 0 && len(z.body) == 0 {
		if len(z.rest) == 0 {
			return 0, io.EOF
		}
		frame, err := readZstdFrame(z.rest)
		if err != nil {
			return 0, err
		}
		z.header, z.body, z.rest = frame.header, z.rest[frame.headerN:frame.size], z.rest[frame.size:]
		z.clipped = z.clipped || frame.clipped
	}
	if len(z.header) > 0 {
		n := copy(into, z.header)
		z.header = z.header[n:]
		return n, nil
	}
	n := copy(into, z.body)
	z.body = z.body[n:]
	return n, nil
}

// unzstd is a batch compressed by zstd.
type unzstd struct {
	input  zstdInput
	stream *zstd.Decoder
	class  int
	buffer [streamBuffer]byte
}

// unzstds are decoders by the class of their window, which never shrinks.
var unzstds [classes]sync.Pool

func newUnzstd(records []byte, class, size int) (decoder, error) {
	u, ok := unzstds[class].Get().(*unzstd)
	if !ok {
		u = &unzstd{class: class}
		var err error
		u.stream, err = zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true),
			zstd.WithDecoderMaxWindow(uint64(size)), zstd.WithDecoderMaxMemory(uint64(size)))
		if err != nil {
			return nil, fmt.Errorf("open a zstd decoder: %w", err)
		}
	}
	u.input = zstdInput{rest: records}
	if err := u.stream.Reset(&u.input); err != nil {
		return nil, corrupt(Zstd, err)
	}
	return u, nil
}

func (u *unzstd) next() ([]byte, error) {
	run, err := readSome(u.stream, u.buffer[:], Zstd)
	if errors.Is(err, ErrCorrupt) && u.input.clipped {
		return nil, fmt.Errorf("%w: it refers back further than %d bytes", ErrTooLarge, maxWindow)
	}
	return run, err
}

func (u *unzstd) close() {
	u.input = zstdInput{}
	_ = u.stream.Reset(nil) // it fails only after Close
	unzstds[u.class].Put(u)
}
