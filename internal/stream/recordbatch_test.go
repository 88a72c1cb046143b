package stream

import (
	"math"
	"testing"
)

func TestSequenceNumbersBeginAgainAfterTheLargest(t *testing.T) {
	for _, c := range []struct {
		sequence int32
		records  int
		want     int32
	}{
		{0, 1, 1},
		{math.MaxInt32 - 1, 1, math.MaxInt32},
		{math.MaxInt32, 1, 0}, // the Java client's DefaultRecordBatch.incrementSequence
		{math.MaxInt32 - 5, 10, 4},
	} {
		if got := sequenceAfter(c.sequence, c.records); got != c.want {
			t.Errorf("%d records after %d: %d, want %d", c.records, c.sequence, got, c.want)
		}
	}
}
