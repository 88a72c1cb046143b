package stream

import (
	"cmp"
	"context"
	"crypto/rand"
	"fmt"
	"strings"

	"tollgate/internal/kafka"
)

// Place is a partition of a topic of a Kafka cluster. A topic that is deleted and made again has another id; it is
// "" if the cluster gives none.
type Place struct {
	Cluster, Topic, TopicID string
	Partition               int
}

// Lifetime is a time within which the committed offset of a group's partition only moves
// forward, so that an offset below it was decided. It ends when the offset is lost (the group
// was deleted, or has another name) or set by somebody else (docs/adr/0008).
type Lifetime struct {
	ID    string
	Group string
}

// Lifetimes remembers, beside what the records of a partition have changed, in which lifetime
// they were decided. Its methods try once, and may be called concurrently.
type Lifetimes interface {
	// Lifetime returns what is noted for a partition, the zero Lifetime where nothing is.
	Lifetime(ctx context.Context, at Place) (Lifetime, error)
	// Succeed notes a lifetime where none is noted or the one with the id before, and returns
	// what is noted then: next, or what stood in its way.
	Succeed(ctx context.Context, at Place, next Lifetime, before string) (Lifetime, error)
}

// forgetful remembers nothing.
type forgetful struct{}

func (forgetful) Lifetime(context.Context, Place) (Lifetime, error) { return Lifetime{}, nil }
func (forgetful) Succeed(_ context.Context, _ Place, next Lifetime, _ string) (Lifetime, error) {
	return next, nil
}

// mark is what stands in the metadata of a committed offset.
//
// It names the lifetime before, so that a crash between the first commit of a lifetime and
// Lifetimes.Succeed can be told from a lifetime that another one has succeeded since.
type mark struct {
	id      string
	before  string // "" for none
	topicID kafka.TopicID
}

const (
	markFormat   = "tollgate/2"
	markNothing  = "-" // for what there is none of
	lifetimeSize = 12  // characters of five bits
)

func newLifetimeID() string { return rand.Text()[:lifetimeSize] }

// metadata is the text to commit along with an offset. The offset is part of it: a tool that sets the offset and
// keeps the metadata must not pass for us.
func (m mark) metadata(offset int64) string {
	return fmt.Sprintf("%s %s %s %s %d", markFormat, m.id, cmp.Or(m.before, markNothing), cmp.Or(m.topicID.String(), markNothing), offset)
}

// readMark reads the metadata of a committed offset; ours is false if somebody else has committed it.
func readMark(metadata string, offset int64) (m mark, ours bool) {
	fields := strings.Fields(metadata)
	if len(fields) != 5 {
		return mark{}, false
	}
	m.id = fields[1]
	if fields[2] != markNothing {
		m.before = fields[2]
	}
	if fields[3] != markNothing {
		var err error
		if m.topicID, err = kafka.ParseTopicID(fields[3]); err != nil {
			return mark{}, false
		}
	}
	return m, m.metadata(offset) == metadata
}

// isOfAnother says that the offset is one of another topic of that name.
func (m mark) isOfAnother(id kafka.TopicID) bool {
	return m.topicID != kafka.TopicID{} && id != kafka.TopicID{} && m.topicID != id
}
