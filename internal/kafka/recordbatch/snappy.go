package recordbatch

import (
	"encoding/binary"
	"errors"
	"io"

	"github.com/klauspost/compress/snappy"
)

// The Java client writes snappy in the framing of snappy-java: a header and blocks of 32 KiB,
// each behind its length. Others write one block without it.
const (
	xerialMagic       = "\x82SNAPPY\x00"
	xerialHeaderBytes = 16 // with two version numbers, which say nothing
	xerialBlockBytes  = 32 << 10
	xerialLengthBytes = 4
)

var errSnappyBlock = errors.New("a block is shorter or longer than it says")

func planSnappy(records []byte) (plan, error) {
	largest := 0
	for reader := newSnappyBlocks(records); ; {
		block, err := reader.next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return plan{}, corrupt(Snappy, err)
		}
		n, err := snappy.DecodedLen(block)
		// No snappy element makes more than 64 bytes out of 3.
		if err != nil || n/22 > len(block) {
			return plan{}, corrupt(Snappy, errSnappyBlock)
		}
		largest = max(largest, n)
	}
	if largest > maxWindow {
		return plan{}, ErrTooLarge
	}
	reader := newSnappyBlocks(records)
	return planBlocks(largest, func(buffer []byte) ([]byte, error) {
		block, err := reader.next()
		if err != nil {
			return nil, err
		}
		run, err := snappy.Decode(buffer, block)
		if err != nil {
			return nil, corrupt(Snappy, err)
		}
		return run, nil
	}), nil
}

// snappyBlocks takes the framing away.
type snappyBlocks struct {
	rest   []byte
	framed bool
}

func newSnappyBlocks(records []byte) *snappyBlocks {
	if len(records) >= xerialHeaderBytes && string(records[:len(xerialMagic)]) == xerialMagic {
		return &snappyBlocks{records[xerialHeaderBytes:], true}
	}
	return &snappyBlocks{records, false}
}

func (s *snappyBlocks) next() (block []byte, err error) {
	switch {
	case len(s.rest) == 0:
		return nil, io.EOF
	case !s.framed:
		block, s.rest = s.rest, nil
		return block, nil
	case len(s.rest) < xerialLengthBytes:
		return nil, io.ErrUnexpectedEOF
	}
	n := int64(binary.BigEndian.Uint32(s.rest))
	s.rest = s.rest[xerialLengthBytes:]
	if n > int64(len(s.rest)) {
		return nil, io.ErrUnexpectedEOF
	}
	block, s.rest = s.rest[:n], s.rest[n:]
	return block, nil
}
