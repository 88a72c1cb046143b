package store

import "fmt"

// binaryReader reads what the scripts pack with struct: big-endian integers, and texts behind their
// lengths. The first error sticks, and what is read after it is zero.
type binaryReader struct {
	rest []byte
	sticky
}

// more says whether anything is left.
func (b *binaryReader) more() bool { return b.err == nil && len(b.rest) > 0 }

func (b *binaryReader) take(n int) []byte {
	if b.err == nil && (n < 0 || n > len(b.rest)) {
		b.fail(fmt.Errorf("%d bytes of %d", n, len(b.rest)))
	}
	if b.err != nil {
		return nil
	}
	taken := b.rest[:n]
	b.rest = b.rest[n:]
	return taken
}

// unsigned reads an integer of some bytes, less than 8.
func (b *binaryReader) unsigned(size int) int64 {
	var n int64
	for _, octet := range b.take(size) {
		n = n<<8 | int64(octet)
	}
	return n
}

// signed reads an integer of some bytes.
func (b *binaryReader) signed(size int) int64 {
	octets := b.take(size)
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
func (b *binaryReader) text(lengthSize int) []byte { return b.take(int(b.unsigned(lengthSize))) }
