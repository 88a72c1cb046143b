package recordbatch

import (
	"cmp"
	"context"
	"errors"
	"io"
	"slices"
)

// What is kept of a record at the most, beside its value.
const (
	MaxKeyBytes = 64 << 10
	// MaxHeadersBytes counts headerOverhead bytes more for each header, since a header of two
	// bytes takes as much memory.
	MaxHeadersBytes = 64 << 10
	headerOverhead  = 40

	defaultMaxValue = 64 << 10
)

// Options are those of a Reader.
type Options struct {
	// MaxValue is how many bytes are kept of a record's value; 0 means 64 KiB.
	MaxValue int
}

// Reader reads the records of one partition out of a fetch answer. It is for one goroutine at a
// time. Between calls it holds a reference to the answer's bytes and, in the middle of a
// compressed batch, a decoder; Close gives both back.
type Reader struct {
	rest     []byte // behind the batches that were passed
	position int64
	from     int64
	epoch    int32
	aborted  []AbortedTransaction // not yet begun, in the order of their first offsets
	aborting map[int64]bool       // producers whose transaction goes on and will be aborted
	maxValue int
	err      error // what ended the reading

	// The batch that is being read, if any.
	inBatch bool
	batch   header
	passed  int   // records of it
	offset  int64 // of the last of these, batch.base - 1 before the first
	source  *lease
	cursor  cursor
	memory  *budget
	keep    arena
	name    []byte // of a header, while it is read
}

// NewReader reads data, the batches of a partition one behind the other; the last may be cut
// off. Records below offset from are skipped. aborted is what the fetch answer lists, in any
// order: with it only committed records are read, without it (nil) all. The Reader does not
// change data, and the records that it returns do not refer to it.
func NewReader(data []byte, from int64, aborted []AbortedTransaction, options Options) *Reader {
	r := &Reader{
		rest: data, position: from, from: from, epoch: -1, aborted: slices.Clone(aborted), memory: decoders,
		maxValue: cmp.Or(options.MaxValue, defaultMaxValue),
	}
	// The broker lists them in the order in which they were aborted.
	slices.SortFunc(r.aborted, func(a, b AbortedTransaction) int { return cmp.Compare(a.FirstOffset, b.FirstOffset) })
	if len(aborted) > 0 {
		r.aborting = map[int64]bool{}
	}
	return r
}

// Position is the offset to go on from: behind the last record that was returned, or behind the
// last batch once all of it was passed, even if its last records were compacted away.
func (r *Reader) Position() int64 { return r.position }

// Epoch is the leader's epoch of the last batch that was passed or that a record was returned
// of, -1 if there is none.
func (r *Reader) Epoch() int32 { return r.epoch }

// Close gives back what the Reader holds. Records that were returned stay valid.
func (r *Reader) Close() {
	r.leave()
	r.rest, r.err = nil, errClosed
}

var errClosed = errors.New("the reader is closed")

// Next returns further records: at most so many, and no more once so many bytes of keys, values
// and headers are kept (the last record may go beyond that). done says that all data has been
// read. Keys, values and headers of one call share memory: they stay valid as long as the caller
// keeps them, and a record keeps those next to it in memory.
//
// An error is a *BatchError, and ends the reading; the records before it are returned first, by a call
// without error. Where ctx ends, its error is returned, and a later call goes on from Position.
func (r *Reader) Next(ctx context.Context, records, bytes int) (batch []Record, done bool, err error) {
	if r.err != nil {
		return nil, false, r.err
	}
	r.keep = arena{names: r.keep.names}
	batch, err = r.collect(ctx, max(records, 1), max(bytes, 1))
	if err != nil {
		r.leave()
		if ctx.Err() == nil || !errors.Is(err, ctx.Err()) {
			r.err = err
		}
		if len(batch) > 0 {
			err = nil // it comes again with the next call
		}
		return batch, false, err
	}
	if r.inBatch {
		r.source = r.memory.park(r.source)
		return batch, false, nil
	}
	if complete(r.rest) {
		return batch, false, nil
	}
	if len(r.rest) > 0 && r.position == r.from {
		r.err = incomplete(r.rest)
		return nil, false, r.err
	}
	return batch, true, nil
}

func (r *Reader) collect(ctx context.Context, records, bytes int) ([]Record, error) {
	var out []Record
	for kept := 0; len(out) < records && kept < bytes; {
		if !r.inBatch {
			if !complete(r.rest) {
				return out, nil
			}
			if err := r.enter(); err != nil {
				return out, err
			}
			continue
		}
		if err := r.resume(ctx); err != nil {
			return out, err
		}
		before := r.passed
		record, wanted, err := r.readRecord(true)
		if err == nil && r.passed == r.batch.count {
			err = r.cursor.end()
		}
		if err != nil {
			r.passed = before // this one is still to come, if ctx ended
			return out, r.fail(ctx, err)
		}
		if wanted {
			if out == nil {
				out = make([]Record, 0, min(records, r.batch.count-r.passed+1, mostPrepared))
			}
			out = append(out, record)
			kept += record.kept()
			r.position, r.epoch = record.Offset+1, r.batch.epoch
		}
		if r.passed == r.batch.count {
			r.leave()
			r.pass(&r.batch)
		}
	}
	return out, nil
}

const mostPrepared = 512 // records, before they are there

// fail is the error of the current batch, or that of the context.
func (r *Reader) fail(ctx context.Context, err error) error {
	if ctx.Err() != nil && errors.Is(err, ctx.Err()) {
		return err
	}
	if errors.Is(err, io.EOF) {
		err = errShort
	}
	return r.batch.fail(err)
}

// enter looks at the next batch, and passes it at once if none of its records is wanted.
func (r *Reader) enter() error {
	h, err := readHeader(r.rest)
	if err != nil {
		return err
	}
	r.beginAborted(h.last)
	switch {
	case h.control():
		delete(r.aborting, h.producerID) // any marker ends its producer's transaction, aborted or not
	case h.transactional() && r.aborting[h.producerID]:
	case h.last < r.from || h.count == 0:
	default:
		r.inBatch, r.batch, r.passed, r.offset = true, h, 0, h.base-1
		return nil
	}
	r.pass(&h)
	return nil
}

// beginAborted notes the aborted transactions that begin at or before an offset.
func (r *Reader) beginAborted(offset int64) {
	for len(r.aborted) > 0 && r.aborted[0].FirstOffset <= offset {
		r.aborting[r.aborted[0].ProducerID] = true
		r.aborted = r.aborted[1:]
	}
}

func (r *Reader) pass(h *header) {
	r.inBatch = false
	r.position, r.epoch = max(r.position, h.last+1), h.epoch
	r.rest = r.rest[h.size:]
}

// resume has the cursor stand behind the records that were passed. If the decoder was taken
// away since the last call, it decompresses the batch again from its beginning.
func (r *Reader) resume(ctx context.Context) error {
	r.cursor.ctx = ctx
	if r.source != nil && (r.source.active || r.memory.unpark(r.source)) {
		return nil
	}
	r.source = nil
	source, err := r.memory.open(ctx, r.batch.compression(), r.batch.records)
	if err != nil {
		return r.fail(ctx, err)
	}
	r.source, r.cursor = source, cursor{ctx: ctx, source: source.decoder}
	again := r.passed
	for r.passed, r.offset = 0, r.batch.base-1; r.passed < again; {
		if _, _, err := r.readRecord(false); err != nil {
			r.passed = again
			return r.fail(ctx, err)
		}
	}
	return nil
}

// leave gives the decoder back. The Reader stays in the middle of the batch, if it is in one.
func (r *Reader) leave() {
	r.memory.release(r.source)
	r.source, r.cursor = nil, cursor{}
}
