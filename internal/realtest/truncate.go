package realtest

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/segmentio/kafka-go"
)

// Truncate cuts the end of a partition's log off, as a machine that crashes before its disk has the
// records leaves it: Kafka is killed, loses what is at the offset and after it, and is started again.
// Whole batches are kept; end is where the log ends then, at the offset or before it.
//
// It is for a Kafka of one broker. In a cluster the other brokers have the records still.
func (k *Kafka) Truncate(t testing.TB, topic string, partition int, offset int64) (end int64) {
	t.Helper()
	k.Kill(t)
	folder := filepath.Join(k.folder(), "logs", fmt.Sprintf("%s-%d", topic, partition))
	end, err := truncateLog(folder, offset)
	if err != nil {
		t.Fatalf("truncate %s/%d at %d: %v", topic, partition, offset, err)
	}
	k.Start(t)
	Until(t, fmt.Sprintf("the end of %s/%d at %d", topic, partition, end), func() bool {
		found, err := k.logEnd(topic, partition)
		if err == nil && found != end {
			t.Fatalf("%s/%d ends at %d, not at %d", topic, partition, found, end)
		}
		return err == nil
	})
	return end
}

// logEnd is the offset that a partition's next record will have.
func (k *Kafka) logEnd(topic string, partition int) (end int64, err error) {
	err = k.ask(topic, partition, func(connection *kafka.Conn) error {
		end, err = connection.ReadLastOffset()
		return err
	})
	return end, err
}

// truncateLog cuts the files of a partition's log.
func truncateLog(folder string, offset int64) (end int64, err error) {
	segments, err := filepath.Glob(filepath.Join(folder, "*.log"))
	if err != nil || len(segments) == 0 {
		return 0, errors.Join(err, fmt.Errorf("no log in %s", folder))
	}
	slices.Sort(segments) // names are offsets of equal length
	if first := firstOffset(segments[0]); offset < first {
		return 0, fmt.Errorf("the log begins at %d", first)
	}
	end = firstOffset(segments[0])
	cut := false
	for _, segment := range segments {
		base := firstOffset(segment)
		if cut || base >= offset && base > end {
			if err := removeSegment(segment); err != nil {
				return 0, err
			}
			continue
		}
		whole, size, err := wholeBatches(segment, offset)
		if err != nil {
			return 0, err
		}
		end = max(base, whole)
		info, err := os.Stat(segment)
		if err != nil {
			return 0, err
		}
		if size < info.Size() {
			cut = true
			if err := os.Truncate(segment, size); err != nil {
				return 0, err
			}
			// They point behind the end. Kafka makes them again.
			if err := removeIndexes(segment); err != nil {
				return 0, err
			}
		}
	}
	return end, errors.Join(removeSnapshots(folder, end), truncateEpochs(folder, end))
}

// firstOffset is that of a file named after it.
func firstOffset(file string) int64 {
	name := filepath.Base(file)
	offset, _ := strconv.ParseInt(strings.TrimSuffix(name, filepath.Ext(name)), 10, 64)
	return offset
}

// wholeBatches is the offset behind the last batch of a segment that lies before offset, and how
// many bytes there are up to it. next is 0 if there is no such batch.
func wholeBatches(segment string, offset int64) (next, size int64, err error) {
	// A batch begins with its base offset (8), the length of what follows (4), epoch (4), magic (1), checksum (4),
	// attributes (2) and the last record's offset as a difference to the base (4).
	const lengthAt, lengthEnd, deltaAt, headBytes = 8, 12, 23, 27
	file, err := os.Open(segment)
	if err != nil {
		return 0, 0, err
	}
	defer file.Close()
	in := bufio.NewReader(file)
	for {
		var head [headBytes]byte
		if _, err := io.ReadFull(in, head[:]); errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return next, size, nil
		} else if err != nil {
			return 0, 0, err
		}
		length := int64(binary.BigEndian.Uint32(head[lengthAt:])) + lengthEnd
		after := int64(binary.BigEndian.Uint64(head[:])) + int64(binary.BigEndian.Uint32(head[deltaAt:])) + 1
		if after > offset {
			return next, size, nil
		}
		if n, err := io.CopyN(io.Discard, in, length-headBytes); err != nil {
			return next, size, fmt.Errorf("%s: a batch of %d bytes has %d: %w", segment, length, n+headBytes, err)
		}
		next, size = after, size+length
	}
}

func removeSegment(segment string) error {
	return errors.Join(os.Remove(segment), removeIndexes(segment))
}

func removeIndexes(segment string) error {
	base := strings.TrimSuffix(segment, ".log")
	var all error
	for _, kind := range []string{".index", ".timeindex", ".txnindex"} {
		if err := os.Remove(base + kind); !errors.Is(err, os.ErrNotExist) {
			all = errors.Join(all, err)
		}
	}
	return all
}

// removeSnapshots removes what was known of producers at offsets that are gone.
func removeSnapshots(folder string, end int64) error {
	snapshots, all := filepath.Glob(filepath.Join(folder, "*.snapshot"))
	for _, snapshot := range snapshots {
		if firstOffset(snapshot) > end {
			all = errors.Join(all, os.Remove(snapshot))
		}
	}
	return all
}

// truncateEpochs removes the leaders' epochs that began at offsets that are gone. The file has a
// version, the number of epochs, and a line with epoch and first offset for each.
func truncateEpochs(folder string, end int64) error {
	file := filepath.Join(folder, "leader-epoch-checkpoint")
	text, err := os.ReadFile(file)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	fields := strings.Fields(string(text))
	if len(fields) < 2 {
		return fmt.Errorf("%s has %q", file, text)
	}
	var kept []string
	for pair := range slices.Chunk(fields[2:], 2) {
		if first, err := strconv.ParseInt(pair[len(pair)-1], 10, 64); err != nil || first < end {
			kept = append(kept, strings.Join(pair, " "))
		}
	}
	header := []string{fields[0], strconv.Itoa(len(kept))}
	return os.WriteFile(file, []byte(lines(append(header, kept...)...)), 0o600)
}

// Corrupt changes a byte of the batch that begins at an offset, as a failing disk does: Kafka is stopped, and started
// again. It hands the batch out as it is; whoever reads it finds its checksum wrong.
func (k *Kafka) Corrupt(t testing.TB, topic string, partition int, offset int64) {
	t.Helper()
	k.Stop(t) // in an orderly way: after a crash Kafka would look, and cut it off
	segment := filepath.Join(k.folder(), "logs", fmt.Sprintf("%s-%d", topic, partition), fmt.Sprintf("%020d.log", 0))
	_, from, err := wholeBatches(segment, offset)
	if err != nil {
		t.Fatal(err)
	}
	log, err := os.ReadFile(segment)
	if err != nil {
		t.Fatal(err)
	}
	const lengthAt, lengthEnd = 8, 12
	if base := int64(binary.BigEndian.Uint64(log[from:])); base != offset {
		t.Fatalf("no batch of %s/%d begins at %d, but one at %d", topic, partition, offset, base)
	}
	end := from + lengthEnd + int64(binary.BigEndian.Uint32(log[from+lengthAt:]))
	log[end-1] ^= 0xff
	if err := os.WriteFile(segment, log, 0o600); err != nil {
		t.Fatal(err)
	}
	k.Start(t)
}
