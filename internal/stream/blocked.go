package stream

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"sync"

	"tollgate/internal/kafka"
	"tollgate/internal/retry"
)

// Blocked is a partition of this worker that does not go on before an operator has seen to it.
type Blocked struct {
	kafka.Target
	Reason string
}

// Blocked lists the partitions that do not go on.
func (c *Consumer) Blocked() []Blocked { return c.blocked.list() }

// blocked are the reasons of partitions.
type blocked struct {
	mutex   sync.Mutex
	reasons map[kafka.Target]*refusal
}

func (b *blocked) list() []Blocked {
	b.mutex.Lock()
	defer b.mutex.Unlock()
	list := make([]Blocked, 0, len(b.reasons))
	for at, reason := range b.reasons {
		list = append(list, Blocked{at, reason.Error()})
	}
	slices.SortFunc(list, func(x, y Blocked) int {
		return cmp.Or(cmp.Compare(x.Topic, y.Topic), cmp.Compare(x.Partition, y.Partition))
	})
	return list
}

func (b *blocked) clear() {
	b.mutex.Lock()
	defer b.mutex.Unlock()
	b.reasons = map[kafka.Target]*refusal{}
}

// add returns how many there are then.
func (b *blocked) add(at kafka.Target, reason *refusal) int {
	b.mutex.Lock()
	defer b.mutex.Unlock()
	b.reasons[at] = reason
	return len(b.reasons)
}

func (b *blocked) remove(at kafka.Target) {
	b.mutex.Lock()
	defer b.mutex.Unlock()
	delete(b.reasons, at)
}

func (b *blocked) all() map[kafka.Target]*refusal {
	b.mutex.Lock()
	defer b.mutex.Unlock()
	return maps.Clone(b.reasons)
}

// block notes that a partition does not go on. A worker all of whose partitions are blocked leaves the group: Kafka
// takes offsets from an operator only while it has no members.
func (c *Consumer) block(a *assignment, reason *refusal) {
	if c.blocked.add(a.Target, reason) == a.generation.Partitions() {
		a.generation.End(errAllBlocked)
	}
}

// stayOut waits outside of the group until none of the partitions is blocked any more, or ctx ends.
func (c *Consumer) stayOut(ctx context.Context) {
	c.stayOutside(errAllBlocked)
	c.logger.Error("out of the group until its offsets are set: no partition of this worker can go on", "group", c.options.Group, "partitions", len(c.blocked.all()))
	for try := 0; ctx.Err() == nil; try++ {
		retry.Pause(ctx, patience, try)
		for at, reason := range c.blocked.all() {
			b, err := c.survey(ctx, at, "", nil)
			refused := asRefusal(err)
			switch {
			case refused != nil:
				c.blocked.add(at, refused)
			case err == nil && (reason.offset < 0 || b.offset > reason.offset):
				c.blocked.remove(at)
			case err != nil && ctx.Err() == nil:
				c.observer.Retried()
				retry.Log(c.logger, "cannot see whether a partition can go on, trying again", err, try, "topic", at.Topic, "partition", at.Partition)
			}
		}
		if len(c.blocked.all()) == 0 {
			return
		}
	}
}
