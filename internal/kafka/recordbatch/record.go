package recordbatch

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"

	"github.com/segmentio/kafka-go/protocol"
)

var (
	errShort  = fmt.Errorf("%w: it has fewer records than it says", ErrCorrupt)
	errLonger = fmt.Errorf("%w: it has more than the records that it says", ErrCorrupt)
	errRecord = fmt.Errorf("%w: a record is longer or shorter than it says", ErrCorrupt)
	errVarint = fmt.Errorf("%w: a number does not end", ErrCorrupt)
)

// readRecord reads the next record of the batch. wanted is false if it was only passed.
func (r *Reader) readRecord(want bool) (record Record, wanted bool, err error) {
	c := &r.cursor
	c.left = math.MaxInt64
	size, err := c.varint()
	if err != nil {
		return record, false, err
	}
	if size < 0 || size > math.MaxInt32 {
		return record, false, errRecord
	}
	c.left = size
	if _, err := c.byte(); err != nil { // its attributes, none of which is in use
		return record, false, err
	}
	timeDelta, err := c.varint()
	if err != nil {
		return record, false, err
	}
	offsetDelta, err := c.varint()
	if err != nil {
		return record, false, err
	}
	if offsetDelta < 0 || offsetDelta > r.batch.last-r.batch.base || r.batch.base+offsetDelta <= r.offset {
		return record, false, fmt.Errorf("%w: a record has the offset delta %d", ErrCorrupt, offsetDelta)
	}
	r.offset = r.batch.base + offsetDelta
	r.passed++
	if !want || r.offset < r.from {
		return record, false, c.skip(c.left)
	}
	record = Record{Offset: r.offset, Time: r.batch.time(timeDelta), Size: int(size)}
	if err := r.readContent(&record); err != nil {
		return record, false, err
	}
	if c.left != 0 {
		return record, false, errRecord
	}
	return record, true, nil
}

func (r *Reader) readContent(record *Record) error {
	var cut bool
	var err error
	if record.Key, cut, err = r.readBytes(MaxKeyBytes); err != nil {
		return err
	}
	record.Cut = cut
	if record.Value, cut, err = r.readBytes(r.maxValue); err != nil {
		return err
	}
	record.Cut = record.Cut || cut
	return r.readHeaders(record)
}

// readBytes reads a length and as many bytes, of which it keeps most.
func (r *Reader) readBytes(most int) (kept []byte, cut bool, err error) {
	n, err := r.cursor.varint()
	if err != nil || n < 0 {
		return nil, false, err
	}
	if n > r.cursor.left {
		return nil, false, errRecord
	}
	kept = r.keep.bytes(int(min(n, int64(most))))
	if err := r.cursor.read(kept); err != nil {
		return nil, false, err
	}
	n -= int64(len(kept))
	return kept, n > 0, r.cursor.skip(n)
}

// readHeaders reads the headers, and keeps those that fit. Behind the first that does not fit none is kept,
// so that Headers are the first ones of the record.
func (r *Reader) readHeaders(record *Record) error {
	n, err := r.cursor.varint()
	if err != nil {
		return err
	}
	if n < 0 || n > r.cursor.left {
		return errRecord
	}
	room := MaxHeadersBytes
	headers := r.keep.headersFor(n)
	for range n {
		room -= headerOverhead
		name, nameCut, err := r.readName(max(room, 0))
		if err != nil {
			return err
		}
		room -= len(name)
		value, valueCut, err := r.readBytes(max(room, 0))
		if err != nil {
			return err
		}
		room -= len(value)
		if nameCut || valueCut || room < 0 {
			record.Cut = true
			if err := r.cursor.skip(r.cursor.left); err != nil {
				return err
			}
			break
		}
		headers = append(headers, protocol.Header{Key: name, Value: value})
	}
	if len(headers) > 0 {
		record.Headers = headers[:len(headers):len(headers)]
		r.keep.headers = headers
	}
	return nil
}

func (r *Reader) readName(most int) (name string, cut bool, err error) {
	n, err := r.cursor.varint()
	if err != nil {
		return "", false, err
	}
	if n < 0 || n > r.cursor.left {
		return "", false, errRecord
	}
	kept := int(min(n, int64(most)))
	r.name = append(r.name[:0], make([]byte, kept)...)
	if err := r.cursor.read(r.name); err != nil {
		return "", false, err
	}
	return r.keep.name(r.name), n > int64(kept), r.cursor.skip(n - int64(kept))
}

// kept is how many bytes of the record were kept.
func (record *Record) kept() int {
	n := len(record.Key) + len(record.Value)
	for i := range record.Headers {
		n += len(record.Headers[i].Key) + len(record.Headers[i].Value) + headerOverhead
	}
	return n
}

// cursor reads decompressed bytes; left is how many of them the record has still.
type cursor struct {
	ctx    context.Context // of the call to Next that is going on
	source decoder
	run    []byte // decompressed and not yet read
	left   int64
}

// fill has at least one byte in run, or fails: with io.EOF at the end of the batch.
func (c *cursor) fill() error {
	for len(c.run) == 0 {
		if err := c.ctx.Err(); err != nil {
			return err
		}
		run, err := c.source.next()
		if err != nil {
			return err
		}
		c.run = run
	}
	return nil
}

func (c *cursor) byte() (byte, error) {
	if c.left <= 0 {
		return 0, errRecord
	}
	if len(c.run) == 0 {
		if err := c.fill(); err != nil {
			return 0, err
		}
	}
	b := c.run[0]
	c.run = c.run[1:]
	c.left--
	return b, nil
}

const maxVarintBytes = 10

// varint reads a number in zigzag encoding.
func (c *cursor) varint() (int64, error) {
	var n uint64
	for i := range maxVarintBytes {
		b, err := c.byte()
		if err != nil {
			return 0, err
		}
		n |= uint64(b&0x7f) << (7 * i)
		if b < 0x80 {
			return int64(n>>1) ^ -int64(n&1), nil
		}
	}
	return 0, errVarint
}

func (c *cursor) read(into []byte) error {
	for len(into) > 0 {
		if err := c.fill(); err != nil {
			return err
		}
		n := copy(into, c.run)
		into, c.run, c.left = into[n:], c.run[n:], c.left-int64(n)
	}
	return nil
}

func (c *cursor) skip(n int64) error {
	for n > 0 {
		if err := c.fill(); err != nil {
			return err
		}
		step := min(n, int64(len(c.run)))
		n, c.run, c.left = n-step, c.run[step:], c.left-step
	}
	return nil
}

// end fails unless all has been read.
func (c *cursor) end() error {
	err := c.fill()
	if err == nil {
		return errLonger
	}
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}

// arena is where the records of one call to Next lie. It allocates in steps, so that a record
// costs no allocation, and a few records no large one.
type arena struct {
	free    []byte
	step    int
	headers []protocol.Header // used as far as its length
	names   map[string]string // of headers seen before
}

const (
	minArenaStep = 4 << 10
	maxArenaStep = 64 << 10
	mostNames    = 64
	maxNameBytes = 64 // of a name that is remembered
)

// bytes are so many bytes, never nil.
func (a *arena) bytes(n int) []byte {
	if n == 0 {
		return []byte{}
	}
	if n > len(a.free) {
		if n >= maxArenaStep/4 {
			return make([]byte, n)
		}
		a.step = min(max(2*a.step, minArenaStep, n), maxArenaStep)
		a.free = make([]byte, a.step)
	}
	out := a.free[:n:n]
	a.free = a.free[n:]
	return out
}

// headersFor has room for so many headers, as long as they are few.
func (a *arena) headersFor(n int64) []protocol.Header {
	const step = 64
	if n <= step && int64(cap(a.headers)-len(a.headers)) < n {
		a.headers = make([]protocol.Header, 0, step)
	}
	return a.headers[len(a.headers):]
}

// name is a header's name as a string. The headers of a topic have the same few names, so these
// are made once.
func (a *arena) name(b []byte) string {
	if s, ok := a.names[string(b)]; ok {
		return s
	}
	s := string(b)
	if len(s) <= maxNameBytes && len(a.names) < mostNames {
		if a.names == nil {
			a.names = map[string]string{}
		}
		a.names[s] = s
	}
	return s
}
