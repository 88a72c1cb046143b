package recordbatch

// What the tests against a real Kafka, which are in a package of their own, have in common with the others.
var (
	ReadHeader  = readHeader
	ReadAll     = readAll
	Texts       = texts
	Text        = text
	Codecs      = codecs
	Noon        = noon
	SameContent = sameContent
)

// First and Last are the offsets that a batch reaches from and to, Count and Size its records and bytes.
func (h *header) First() int64 { return h.base }
func (h *header) Last() int64  { return h.last }
func (h *header) Count() int   { return h.count }
func (h *header) Size() int    { return h.size }

// Compression is what the batch is compressed with.
func (h *header) Compression() Compression { return h.compression() }
