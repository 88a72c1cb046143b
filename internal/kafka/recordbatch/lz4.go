package recordbatch

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/pierrec/lz4/v4"
)

// The frame around lz4's blocks is read here, since lz4.Reader takes 8 MiB for every frame of a
// writer with its default block size, however small the frame is. Of the frame's format only
// what Kafka's own client reads is read (no linked blocks, no dictionaries). Checksums in it are
// not looked at: the batch has one over all of it.
const (
	lz4Magic           = 0x184d2204
	lz4LengthBytes     = 4
	lz4ChecksumBytes   = 4
	lz4DescriptorBytes = 7 // with the magic and its own checksum
	lz4SizeBytes       = 8
	lz4VersionBits     = 0xc0
	lz4Version         = 0x40
	lz4Independent     = 0x20
	lz4BlockChecksum   = 0x10
	lz4ContentSize     = 0x08
	lz4ContentChecksum = 0x04
	lz4Dictionary      = 0x01
	lz4Uncompressed    = 1 << 31 // in a block's length
)

var errLZ4Block = errors.New("a block is shorter or longer than it says")

func planLZ4(records []byte) (plan, error) {
	largest := 0
	for reader := (lz4Blocks{rest: records}); ; {
		block, compressed, err := reader.next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return plan{}, corrupt(LZ4, err)
		}
		n := len(block)
		if compressed {
			n = lz4DecodedLen(block)
		}
		if n > reader.largest {
			return plan{}, corrupt(LZ4, errLZ4Block)
		}
		largest = max(largest, n)
	}
	reader := lz4Blocks{rest: records}
	return planBlocks(largest, func(buffer []byte) ([]byte, error) {
		block, compressed, err := reader.next()
		if err != nil || !compressed {
			return block, err
		}
		n, err := lz4.UncompressBlock(block, buffer)
		if err != nil {
			return nil, corrupt(LZ4, err)
		}
		return buffer[:n], nil
	}), nil
}

// lz4DecodedLen is how long a block is when it is decompressed, if it is right.
func lz4DecodedLen(block []byte) int {
	const minMatch = 4
	n := 0
	for i := 0; i < len(block); {
		token := block[i]
		i++
		var literals, match int
		literals, i = lz4Length(block, i, int(token>>4))
		n += literals
		i += literals + 2 // and the match's offset, which the last literals are without
		if i >= len(block) {
			break
		}
		match, i = lz4Length(block, i, int(token&0xf))
		n += match + minMatch
	}
	return n
}

// lz4Length adds to a length of four bits the bytes that follow if these are all set.
func lz4Length(block []byte, i, n int) (length, next int) {
	if n < 0xf {
		return n, i
	}
	for i < len(block) {
		b := block[i]
		i++
		n += int(b)
		if b < 0xff {
			break
		}
	}
	return n, i
}

// lz4Blocks takes the frames away.
type lz4Blocks struct {
	rest    []byte
	inFrame bool
	flags   byte
	largest int // bytes that a block of the frame has at the most, decompressed
}

// next is the next block, as it is in the frame.
func (l *lz4Blocks) next() (block []byte, compressed bool, err error) {
	for {
		if !l.inFrame {
			if len(l.rest) == 0 {
				return nil, false, io.EOF
			}
			if err := l.enter(); err != nil {
				return nil, false, err
			}
		}
		length, err := l.take(lz4LengthBytes)
		if err != nil {
			return nil, false, err
		}
		n := binary.LittleEndian.Uint32(length)
		if n == 0 { // the end of the frame
			if l.flags&lz4ContentChecksum != 0 {
				if _, err := l.take(lz4ChecksumBytes); err != nil {
					return nil, false, err
				}
			}
			l.inFrame = false
			continue
		}
		compressed = n&lz4Uncompressed == 0
		if block, err = l.take(int64(n &^ lz4Uncompressed)); err != nil {
			return nil, false, err
		}
		if l.flags&lz4BlockChecksum != 0 {
			if _, err := l.take(lz4ChecksumBytes); err != nil {
				return nil, false, err
			}
		}
		return block, compressed, nil
	}
}

// enter reads the beginning of a frame.
func (l *lz4Blocks) enter() error {
	descriptor, err := l.take(lz4DescriptorBytes)
	if err != nil {
		return err
	}
	if binary.LittleEndian.Uint32(descriptor) != lz4Magic {
		return lz4.ErrInvalidFrame
	}
	l.flags = descriptor[4]
	if l.flags&lz4VersionBits != lz4Version || l.flags&lz4Independent == 0 || l.flags&lz4Dictionary != 0 {
		return fmt.Errorf("%w: flags %#02x of an lz4 frame", ErrUnsupported, l.flags)
	}
	if l.flags&lz4ContentSize != 0 {
		if _, err := l.take(lz4SizeBytes); err != nil {
			return err
		}
	}
	index := descriptor[5] >> 4 & 7
	if index < 4 {
		return fmt.Errorf("%w: block size %d", lz4.ErrInvalidFrame, index)
	}
	l.largest = 1 << (8 + 2*index) // 64 KiB to 4 MiB
	l.inFrame = true
	return nil
}

func (l *lz4Blocks) take(n int64) ([]byte, error) {
	if n > int64(len(l.rest)) {
		return nil, io.ErrUnexpectedEOF
	}
	out := l.rest[:n]
	l.rest = l.rest[n:]
	return out, nil
}
