// Package recordbatch reads and writes Kafka's record batches (magic 2) within a fixed amount
// of memory.
//
// A batch of a few kilobytes can hold gigabytes once it is decompressed, so a Reader never
// decompresses a batch as a whole. It decompresses step by step, hands out the records that the
// caller has room for, and throws away what is too large to be kept. What all readers of the
// process may hold for decompressing is bounded together (see budget).
//
// The format is in Kafka's documentation, Record Batch; what a consumer must skip is as in the
// Java client's CompletedFetch.
package recordbatch

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"math"
	"time"

	"github.com/segmentio/kafka-go/protocol"
)

// Why a batch could not be read. They come inside a *BatchError.
var (
	// ErrIncomplete: the data ends before the end of its only batch. A larger fetch gets it whole.
	ErrIncomplete = errors.New("the batch is not complete")
	// ErrOldFormat: the batch is in the message format of Kafka before 0.11 (magic 0 or 1).
	ErrOldFormat = errors.New("the batch is in the old message format (before Kafka 0.11)")
	// ErrChecksum: the CRC-32C of the batch is not that of its content.
	ErrChecksum = errors.New("the checksum of the batch is wrong")
	// ErrTooLarge: to decompress the batch takes more memory than one batch may have.
	ErrTooLarge = errors.New("the batch needs too much memory to be decompressed")
	// ErrUnsupported: the batch uses something that this package does not know.
	ErrUnsupported = errors.New("the format of the batch is not supported")
	// ErrCorrupt: the content of the batch breaks the format, although its checksum is right.
	ErrCorrupt = errors.New("the batch is corrupt")
)

// BatchError is an error in one batch. A Reader can go on behind the batch only as a new Reader
// that begins at Last + 1.
type BatchError struct {
	// Base and Last are the first and the last offset of the batch. Last is -1 if it could not
	// be read.
	Base, Last int64
	// Size is the number of bytes of the whole batch, 0 if not even that could be read.
	Size int64
	Err  error
}

func (e *BatchError) Error() string { return fmt.Sprintf("batch at offset %d: %v", e.Base, e.Err) }

func (e *BatchError) Unwrap() error { return e.Err }

// Record is one record of a batch.
type Record struct {
	Offset  int64
	Time    time.Time // in milliseconds
	Key     []byte    // nil for none
	Value   []byte    // nil for none
	Headers []protocol.Header
	// Size is the number of bytes that the whole record has, uncompressed.
	Size int
	// Cut says that Key, Value or Headers are not whole: each was larger than what is kept of
	// it (Options.MaxValue, MaxKeyBytes, MaxHeadersBytes). Key and Value then end early, and
	// Headers lack the last ones.
	Cut bool
}

// AbortedTransaction is a transaction that a fetch answer lists as aborted.
type AbortedTransaction struct {
	ProducerID  int64
	FirstOffset int64
}

// Where the fields of a batch are, counted from its beginning.
const (
	lengthAt          = 8 // of all that follows it
	epochAt           = 12
	magicAt           = 16
	checksumAt        = 17 // CRC-32C of all that follows it
	attributesAt      = 21
	lastOffsetDeltaAt = 23
	firstTimeAt       = 27
	maxTimeAt         = 35
	producerIDAt      = 43
	producerEpochAt   = 51
	sequenceAt        = 53
	countAt           = 57
	recordsAt         = 61

	lengthEnd = epochAt // the length counts from here

	currentMagic = 2
)

// Bits of the attributes.
const (
	compressionBits   = 0x07
	logAppendTimeBit  = 0x08
	transactionalBit  = 0x10
	controlBit        = 0x20
	recordAttributesN = 1 // bytes, always 0
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// header is what a batch says of itself, checked as far as it can be without its records.
type header struct {
	base, last int64
	epoch      int32
	attributes int16
	firstTime  int64 // ms
	maxTime    int64 // ms
	producerID int64
	count      int
	records    []byte // as they are in the batch, perhaps compressed
	size       int    // of the whole batch
}

func (h *header) compression() Compression { return Compression(h.attributes & compressionBits) }
func (h *header) control() bool            { return h.attributes&controlBit != 0 }
func (h *header) transactional() bool      { return h.attributes&transactionalBit != 0 }

// time is the time of a record: the broker's if the topic is set so, else the producer's.
func (h *header) time(delta int64) time.Time {
	if h.attributes&logAppendTimeBit != 0 {
		return time.UnixMilli(h.maxTime)
	}
	return time.UnixMilli(h.firstTime + delta)
}

// fail is the error of a batch whose header is known.
func (h *header) fail(err error) error {
	return &BatchError{Base: h.base, Last: h.last, Size: int64(h.size), Err: err}
}

// complete tells whether data begins with a whole batch. A length that cannot be is for
// readHeader to refuse.
func complete(data []byte) bool {
	if len(data) < lengthEnd {
		return false
	}
	if len(data) > magicAt && data[magicAt] < currentMagic {
		return true // refused whatever its length is
	}
	length := int64(int32(binary.BigEndian.Uint32(data[lengthAt:])))
	return length < recordsAt-lengthEnd || int64(len(data)-lengthEnd) >= length
}

// incomplete is the error for data that ends within its first batch.
func incomplete(data []byte) error {
	e := &BatchError{Base: -1, Last: -1, Err: ErrIncomplete}
	if len(data) >= lengthEnd {
		e.Base = int64(binary.BigEndian.Uint64(data))
		e.Size = lengthEnd + int64(int32(binary.BigEndian.Uint32(data[lengthAt:])))
	}
	return e
}

// readHeader reads the batch that data begins with; complete(data) is true.
func readHeader(data []byte) (header, error) {
	h := header{base: int64(binary.BigEndian.Uint64(data)), last: -1}
	if len(data) > magicAt && data[magicAt] != currentMagic {
		if data[magicAt] < currentMagic {
			return h, h.fail(ErrOldFormat)
		}
		return h, h.fail(fmt.Errorf("%w: magic %d", ErrUnsupported, data[magicAt]))
	}
	length := int32(binary.BigEndian.Uint32(data[lengthAt:]))
	if length < recordsAt-lengthEnd {
		return h, h.fail(fmt.Errorf("%w: a length of %d bytes", ErrCorrupt, length))
	}
	h.size = lengthEnd + int(length)
	data = data[:h.size]
	lastDelta := int32(binary.BigEndian.Uint32(data[lastOffsetDeltaAt:]))
	if h.base >= 0 && lastDelta >= 0 && h.base < math.MaxInt64-int64(lastDelta) {
		h.last = h.base + int64(lastDelta)
	}
	if binary.BigEndian.Uint32(data[checksumAt:]) != crc32.Checksum(data[attributesAt:], castagnoli) {
		h.last = -1 // whatever it says
		return h, h.fail(ErrChecksum)
	}
	h.epoch = int32(binary.BigEndian.Uint32(data[epochAt:]))
	h.attributes = int16(binary.BigEndian.Uint16(data[attributesAt:]))
	h.firstTime = int64(binary.BigEndian.Uint64(data[firstTimeAt:]))
	h.maxTime = int64(binary.BigEndian.Uint64(data[maxTimeAt:]))
	h.producerID = int64(binary.BigEndian.Uint64(data[producerIDAt:]))
	h.count = int(int32(binary.BigEndian.Uint32(data[countAt:])))
	h.records = data[recordsAt:]
	if h.last < 0 || h.count < 0 {
		return h, h.fail(fmt.Errorf("%w: last offset delta %d, %d records", ErrCorrupt, lastDelta, h.count))
	}
	return h, nil
}
