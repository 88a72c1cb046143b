package recordbatch

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"math"
	"math/bits"
	"sync"
	"time"
)

// Producer is the session of an idempotent or transactional producer.
type Producer struct {
	ID       int64
	Epoch    int16
	Sequence int32 // of the batch's first record
}

// NoProducer is for batches of a producer without a session.
var NoProducer = Producer{ID: -1, Epoch: -1, Sequence: -1}

// NextSequence is the sequence number that follows so many records. After the largest comes 0
// (the Java client's DefaultRecordBatch.incrementSequence).
func NextSequence(sequence int32, records int) int32 {
	return int32((int64(sequence) + int64(records)) & math.MaxInt32)
}

// ErrNoRecords is returned for a batch without records, which no broker takes.
var ErrNoRecords = errors.New("a batch needs a record")

// Append appends one batch of the records to dst, as a produce request has it for a partition.
// All records get the time now. Of the records only Key, Value and Headers count. A batch that
// compression does not make smaller is written without it.
func Append(dst []byte, records []Record, now time.Time, producer Producer, transactional bool, compression Compression) ([]byte, error) {
	if len(records) == 0 {
		return dst, ErrNoRecords
	}
	begin := len(dst)
	var head [recordsAt]byte
	dst = append(dst, head[:]...)
	out, compressed, err := appendRecords(dst, records, compression)
	if err != nil {
		return dst[:begin], err
	}
	batch := out[begin:]
	if len(batch) > math.MaxInt32 {
		return dst[:begin], fmt.Errorf("a batch of %d bytes is too large", len(batch))
	}
	attributes := int16(compressed)
	if transactional {
		attributes |= transactionalBit
	}
	binary.BigEndian.PutUint32(batch[lengthAt:], uint32(len(batch)-lengthEnd))
	binary.BigEndian.PutUint32(batch[epochAt:], math.MaxUint32) // -1: the broker puts its own in
	batch[magicAt] = currentMagic
	binary.BigEndian.PutUint16(batch[attributesAt:], uint16(attributes))
	binary.BigEndian.PutUint32(batch[lastOffsetDeltaAt:], uint32(len(records)-1))
	binary.BigEndian.PutUint64(batch[firstTimeAt:], uint64(now.UnixMilli()))
	binary.BigEndian.PutUint64(batch[maxTimeAt:], uint64(now.UnixMilli()))
	binary.BigEndian.PutUint64(batch[producerIDAt:], uint64(producer.ID))
	binary.BigEndian.PutUint16(batch[producerEpochAt:], uint16(producer.Epoch))
	binary.BigEndian.PutUint32(batch[sequenceAt:], uint32(producer.Sequence))
	binary.BigEndian.PutUint32(batch[countAt:], uint32(len(records)))
	binary.BigEndian.PutUint32(batch[checksumAt:], crc32.Checksum(batch[attributesAt:], castagnoli))
	return out, nil
}

// rawBuffers hold records before they are compressed.
var rawBuffers = sync.Pool{New: func() any { return new([]byte) }}

const mostRawKept = 4 << 20 // bytes; a larger buffer is for the garbage collector

// appendRecords appends the records, and tells how they are compressed.
func appendRecords(dst []byte, records []Record, compression Compression) ([]byte, Compression, error) {
	if compression == None {
		return appendPlain(dst, records), None, nil
	}
	buffer := rawBuffers.Get().(*[]byte)
	raw := appendPlain((*buffer)[:0], records)
	defer func() {
		if *buffer = raw; cap(raw) <= mostRawKept {
			rawBuffers.Put(buffer)
		}
	}()
	out, err := appendCompressed(dst, raw, compression)
	if err != nil {
		return nil, None, err
	}
	if len(out)-len(dst) >= len(raw) {
		return append(dst, raw...), None, nil
	}
	return out, compression, nil
}

func appendPlain(dst []byte, records []Record) []byte {
	for i := range records {
		r := &records[i]
		const timeDelta = 0
		size := recordAttributesN + varintBytes(timeDelta) + varintBytes(int64(i)) + sizeOfBytes(r.Key) + sizeOfBytes(r.Value) +
			varintBytes(int64(len(r.Headers)))
		for j := range r.Headers {
			size += varintBytes(int64(len(r.Headers[j].Key))) + len(r.Headers[j].Key) + sizeOfBytes(r.Headers[j].Value)
		}
		dst = binary.AppendVarint(dst, int64(size))
		dst = append(dst, 0)
		dst = binary.AppendVarint(dst, timeDelta)
		dst = binary.AppendVarint(dst, int64(i))
		dst = appendBytes(dst, r.Key)
		dst = appendBytes(dst, r.Value)
		dst = binary.AppendVarint(dst, int64(len(r.Headers)))
		for j := range r.Headers {
			dst = binary.AppendVarint(dst, int64(len(r.Headers[j].Key)))
			dst = append(dst, r.Headers[j].Key...)
			dst = appendBytes(dst, r.Headers[j].Value)
		}
	}
	return dst
}

func appendBytes(dst, b []byte) []byte {
	if b == nil {
		return binary.AppendVarint(dst, -1)
	}
	return append(binary.AppendVarint(dst, int64(len(b))), b...)
}

func sizeOfBytes(b []byte) int {
	if b == nil {
		return varintBytes(-1)
	}
	return varintBytes(int64(len(b))) + len(b)
}

// varintBytes is how many bytes binary.AppendVarint appends.
func varintBytes(n int64) int {
	zigzag := uint64(n)<<1 ^ uint64(n>>63)
	return (bits.Len64(zigzag|1) + 6) / 7
}
