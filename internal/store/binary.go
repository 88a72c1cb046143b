package store

import "fmt"

// binaryReader reads what the scripts pack with struct: big-endian integers, and texts behind their
// lengths. The first error sticks, and what is read after it is zero.
type binaryReader struct {
	rest []byte
	sticky
}

// more says whether anything is left.
func (r *binaryReader) more() bool { return r.err == nil && len(r.rest) > 0 }

func (r *binaryReader) take(n int) []byte {
	if r.err == nil && (n < 0 || n > len(r.rest)) {
		r.fail(fmt.Errorf("%d bytes of %d", n, len(r.rest)))
	}
	if r.err != nil {
		return nil
	}
	taken := r.rest[:n]
	r.rest = r.rest[n:]
	return taken
}

// unsigned reads an integer of some bytes, less than 8.
func (r *binaryReader) unsigned(size int) int64 {
	var n int64
	for _, octet := range r.take(size) {
		n = n<<8 | int64(octet)
	}
	return n
}

// signed reads an integer of some bytes.
func (r *binaryReader) signed(size int) int64 {
	octets := r.take(size)
	var n int64
	if len(octets) > 0 && octets[0] >= 0x80 {
		n = -1
	}
	for _, octet := range octets {
		n = n<<8 | int64(octet)
	}
	return n
}

// text reads a text behind its length, a number of some bytes.
func (r *binaryReader) text(lengthSize int) []byte { return r.take(int(r.unsigned(lengthSize))) }
