package stream

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	kafkago "github.com/segmentio/kafka-go"

	"tollgate/internal/kafka"
)

const (
	// layoutEvery is how often the topics are looked at: partitions may be added, topics deleted and made.
	layoutEvery = 3 * time.Second
	// lagEvery is how often the ends of logs are asked for.
	lagEvery = 5 * time.Second
	// stalledAfter is how long a partition may stand still that has records.
	stalledAfter = 30 * time.Second
)

// watch is what is seen of a generation's partitions from beside them.
type watch struct {
	mutex   sync.Mutex
	seen    map[kafka.Target]*sight
	missing []string // topics
}

// sight is what was seen of a partition last.
type sight struct {
	progress  *progress
	lag       int64
	committed int64
	since     time.Time // of that offset, or of nothing waiting
	oldest    time.Time // when the first record was written that is not committed
	oldestAt  int64     // its offset
	// transaction says that a sender's keeps the records from being read.
	transaction error
}

func (w *watch) begin(flows []*flow) {
	w.mutex.Lock()
	defer w.mutex.Unlock()
	before := w.seen
	w.seen = make(map[kafka.Target]*sight, len(flows))
	for _, f := range flows {
		s := &sight{progress: f.assignment.progress, committed: -1, oldestAt: -1, since: time.Now()}
		if known := before[f.assignment.Target]; known != nil { // it may have stood still for longer than this generation
			s.lag, s.committed, s.since = known.lag, known.committed, known.since
		}
		w.seen[f.assignment.Target] = s
	}
}

// Missing lists the topics that cannot be consumed: they do not exist, or this user may not read them.
func (c *Consumer) Missing() []string {
	c.watch.mutex.Lock()
	defer c.watch.mutex.Unlock()
	return slices.Clone(c.watch.missing)
}

// Stalls lists the partitions that have had records for a while and do not go on, whatever the reason.
func (c *Consumer) Stalls() []Stall {
	c.watch.mutex.Lock()
	defer c.watch.mutex.Unlock()
	var list []Stall
	for at, s := range c.watch.seen {
		if still := time.Since(s.since); s.lag > 0 && still >= c.options.StalledAfter {
			reason := cmp.Or(s.progress.reason(), s.transaction, c.fetcher.Trouble(), errUnknown)
			list = append(list, Stall{at, still, s.lag, reason.Error()})
		}
	}
	slices.SortFunc(list, func(a, b Stall) int { return compareTargets(a.Target, b.Target) })
	return list
}

func compareTargets(a, b kafka.Target) int {
	return cmp.Or(cmp.Compare(a.Topic, b.Topic), cmp.Compare(a.Partition, b.Partition))
}

var errOpenTransaction = errors.New("a sender's transaction is open: its records, and all behind them, can be read once it is ended, or has timed out (its transaction.timeout.ms)")

var errUnknown = errors.New("no error is known; they are being decided, or published")

var errLayout = errors.New("the topics are not what they were when partitions were assigned")

// watchLayouts ends the generation when its topics are no longer as they were when it was joined. Every member looks:
// the leader of the group may have seen something else, or be gone.
func (c *Consumer) watchLayouts(generation *kafka.Generation) {
	ctx := generation.Over()
	c.note(generation.Layouts)
	for ; ; wait(ctx, layoutEvery) {
		if ctx.Err() != nil {
			return
		}
		layouts, failures, err := c.broker.Describe(ctx, c.options.Topics)
		if err != nil || isUncertain(failures) {
			continue
		}
		c.note(layouts)
		if generation.Stale || kafka.Differ(generation.Layouts, layouts) {
			generation.End(errLayout)
			return
		}
	}
}

// isUncertain says that what a topic is could not be told this time.
func isUncertain(failures map[string]error) bool {
	for _, err := range failures {
		if !kafka.IsTopicRefused(err) {
			return true
		}
	}
	return false
}

// note keeps in mind what topics are missing.
func (c *Consumer) note(layouts map[string]kafka.Layout) {
	var missing []string
	for _, topic := range c.options.Topics {
		if _, there := layouts[topic]; !there {
			missing = append(missing, topic)
		}
	}
	c.watch.mutex.Lock()
	defer c.watch.mutex.Unlock()
	c.watch.missing = missing
}

func wait(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	}
}

// watchLag asks how far the partitions are behind, until ctx ends. It does so beside their work, so that it tells when
// that stands still.
func (c *Consumer) watchLag(ctx context.Context) {
	for ; ctx.Err() == nil; wait(ctx, lagEvery) {
		c.lookAtLag(ctx)
	}
}

func (c *Consumer) lookAtLag(ctx context.Context) {
	c.watch.mutex.Lock()
	partitions := map[string][]int{}
	for at := range c.watch.seen {
		partitions[at.Topic] = append(partitions[at.Topic], at.Partition)
	}
	c.watch.mutex.Unlock()
	if len(partitions) == 0 {
		return
	}
	ends, err := c.broker.LastOffsets(ctx, partitions)
	if err != nil {
		c.logger.Debug("cannot ask for the ends of the partitions", "error", err)
	}
	for at, end := range ends {
		c.see(ctx, at, end)
	}
}

// see notes how far a partition is behind its end.
func (c *Consumer) see(ctx context.Context, at kafka.Target, end int64) {
	c.watch.mutex.Lock()
	s := c.watch.seen[at]
	c.watch.mutex.Unlock()
	committed := s.progress.committed.Load()
	if committed < 0 { // it has not begun
		offsets, err := c.broker.Committed(ctx, c.options.Group, at.Topic, []int{at.Partition})
		if err != nil || offsets[at.Partition] < 0 {
			committed, err = c.broker.FirstOffset(ctx, at.Topic, at.Partition)
		} else {
			committed = offsets[at.Partition]
		}
		if err != nil {
			return
		}
	}
	lag := max(0, end-committed)
	oldest, oldestAt := s.oldest, s.oldestAt
	switch {
	case lag == 0:
		oldestAt = -1 // the next record will be at this offset
	case oldestAt != committed:
		var err error
		oldest, err = c.broker.TimeOf(ctx, at, committed)
		if oldestAt = committed; err != nil {
			oldestAt = -1 // to be asked again
			if !errors.Is(err, kafkago.OffsetOutOfRange) {
				c.logger.Debug("cannot read how old the first record is", "error", err)
			}
		}
	}
	isOpen := false
	if lag > 0 && committed == s.committed { // it stands still
		stable, err := c.broker.StableOffset(ctx, at)
		isOpen = err == nil && stable <= committed
	}
	c.watch.mutex.Lock()
	if s.transaction = nil; isOpen {
		s.transaction = errOpenTransaction
	}
	if lag == 0 || committed != s.committed {
		s.since = time.Now()
	}
	s.lag, s.committed, s.oldest, s.oldestAt = lag, committed, oldest, oldestAt
	c.watch.mutex.Unlock()
	age := time.Duration(0)
	if lag > 0 && !oldest.IsZero() {
		age = time.Since(oldest)
	}
	c.observer.Lagging(at.Topic, at.Partition, lag, age)
}
