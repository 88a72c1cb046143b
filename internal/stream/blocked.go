package stream

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"sync"
)

// Blocked is a partition of this worker that does not begin before an operator has seen to it.
type Blocked struct {
	Topic     string
	Partition int
	Reason    string
}

// Blocked lists the partitions that do not begin.
func (c *Consumer) Blocked() []Blocked { return c.blocked.list() }

// blocked are the reasons of partitions.
type blocked struct {
	mutex   sync.Mutex
	reasons map[target]error
}

func (b *blocked) list() []Blocked {
	b.mutex.Lock()
	defer b.mutex.Unlock()
	list := make([]Blocked, 0, len(b.reasons))
	for at, reason := range b.reasons {
		list = append(list, Blocked{at.topic, at.partition, reason.Error()})
	}
	slices.SortFunc(list, func(x, y Blocked) int {
		return cmp.Or(cmp.Compare(x.Topic, y.Topic), cmp.Compare(x.Partition, y.Partition))
	})
	return list
}

func (b *blocked) clear() {
	b.mutex.Lock()
	defer b.mutex.Unlock()
	b.reasons = map[target]error{}
}

// add returns how many there are then.
func (b *blocked) add(topic string, partition int, reason error) int {
	b.mutex.Lock()
	defer b.mutex.Unlock()
	b.reasons[target{topic, partition}] = reason
	return len(b.reasons)
}

func (b *blocked) remove(topic string, partition int) {
	b.mutex.Lock()
	defer b.mutex.Unlock()
	delete(b.reasons, target{topic, partition})
}

func (b *blocked) places() []target {
	b.mutex.Lock()
	defer b.mutex.Unlock()
	return slices.Collect(maps.Keys(b.reasons))
}

// block notes that the flow's partition does not begin. A worker all of whose partitions are
// blocked leaves the group: Kafka takes offsets from an operator only while it has no members.
func (f *flow) block(reason error) {
	if f.consumer.blocked.add(f.topic, f.partition, reason) == f.siblings {
		f.leave()
	}
}

// stayOut waits outside of the group until none of the partitions is blocked any more, or ctx
// ends.
func (c *Consumer) stayOut(ctx context.Context) {
	places := c.blocked.places()
	c.logger.Error("out of the group until its offsets are set: no partition of this worker can begin", "group", c.options.Group, "partitions", len(places))
	for try := 0; pause(ctx, try); try++ {
		for _, at := range places {
			_, err := c.survey(ctx, at.topic, at.partition, "")
			switch {
			case err == nil:
				c.blocked.remove(at.topic, at.partition)
			case isRefusal(err):
				c.blocked.add(at.topic, at.partition, err)
			case ctx.Err() == nil:
				c.observer.Retried()
				logRetry(c.logger, try, "cannot see whether a partition can begin, trying again", err, "topic", at.topic, "partition", at.partition)
			}
		}
		if len(c.blocked.places()) == 0 {
			return
		}
	}
}
