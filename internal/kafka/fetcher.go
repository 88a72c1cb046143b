package kafka

import (
	"context"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"tollgate/internal/retry"
)

// Fetcher fetches the partitions of a consumer with few requests: of each broker one asks for all partitions
// that have no records, and waits long; partitions that come free meanwhile are asked for by up to two that
// wait a short time. (kafka-go keeps a connection busy for each request that waits.)
//
// A partition is fetched one answer ahead of who reads it. What all answers take together is bounded; a
// partition whose reader stands still keeps no other from being fetched.
type Fetcher struct {
	broker  Broker
	options FetcherOptions
	logger  *slog.Logger
	wake    chan struct{}

	mutex   sync.Mutex
	cursors map[Target]*Cursor
	flights map[int32]*flights // by broker
	held    int                // bytes of answers, and of those that may come
	round   int64
	trouble error // why requests fail, nil if they do not
}

// FetcherOptions are how a fetcher fetches.
type FetcherOptions struct {
	Rack    string // of this consumer, to read from a follower that is near; "" for leaders only
	Retried func() // is told of every further try; may be nil
}

const (
	longWait         = time.Second
	shortWait        = 20 * time.Millisecond
	mostShort        = 2        // requests of one broker at a time
	responseMaxBytes = 4 << 20  // of all partitions together
	answersMaxBytes  = 24 << 20 // held at a time; each request may bring FetchMaxBytes beyond it
	followerEndures  = 5 * time.Minute
)

// flights are the requests to one broker that are under way.
type flights struct {
	long     bool
	short    int
	failures int // in a row
}

// NewFetcher makes a fetcher; Run makes it work.
func NewFetcher(broker Broker, options FetcherOptions, logger *slog.Logger) *Fetcher {
	return &Fetcher{
		broker: broker, options: options, logger: logger, wake: make(chan struct{}, 1),
		cursors: map[Target]*Cursor{}, flights: map[int32]*flights{},
	}
}

// Cursor is a place in a partition, from which it is fetched onwards. One goroutine reads it.
type Cursor struct {
	fetcher *Fetcher
	ready   chan struct{} // has room for one

	// The fetcher's mutex guards the rest.
	want   wanted
	state  cursorState
	answer Fetched
	err    error
	served int64 // the round in which it brought something last: who waits longest comes first
	// follower is where to fetch from in the leader's place, -1 for none, and until when.
	follower int32
	until    time.Time
	// leaderOnly is until when the leader must not name a follower: one has failed.
	leaderOnly time.Time
}

type cursorState int

const (
	cursorResting   cursorState = iota // after an error, until somebody asks again
	cursorWanted                       // to be fetched
	cursorUnderWay                     // is being fetched
	cursorAnswered                     // has an answer that nobody took yet
	cursorForgotten                    // is closed
)

// Open begins a cursor. epoch is that of the leader from which the record before the offset came, -1 if that is
// not known: with it a log that was truncated and has grown again is told from the one that was read.
func (f *Fetcher) Open(at Target, id TopicID, offset int64, epoch int32) *Cursor {
	c := &Cursor{
		fetcher: f, ready: make(chan struct{}, 1), state: cursorWanted, follower: -1,
		want: wanted{Target: at, id: id, offset: offset, epoch: epoch},
	}
	f.mutex.Lock()
	f.cursors[at] = c
	f.mutex.Unlock()
	f.rouse()
	return c
}

// Close ends the fetching. What was fetched and not read is gone.
func (c *Cursor) Close() {
	f := c.fetcher
	f.mutex.Lock()
	defer f.mutex.Unlock()
	if c.state == cursorAnswered {
		f.held -= len(c.answer.data)
	}
	c.state = cursorForgotten
	if f.cursors[c.want.Target] == c {
		delete(f.cursors, c.want.Target)
	}
}

// Next returns what was fetched next, and has what follows it fetched. It fails with *Truncated, with kafka-go's
// OffsetOutOfRange, with another error of a broker, or when ctx ends. After an error it may be called again: the
// same is then fetched anew. Whoever has read an answer must call Done with it.
func (c *Cursor) Next(ctx context.Context) (Fetched, error) {
	f := c.fetcher
	for {
		f.mutex.Lock()
		switch {
		case c.err != nil:
			err := c.err
			c.err = nil
			f.mutex.Unlock()
			return Fetched{}, err
		case c.state == cursorAnswered:
			answer := c.answer
			c.answer, c.state = Fetched{}, cursorWanted
			f.mutex.Unlock()
			f.rouse()
			return answer, nil
		case c.state == cursorResting:
			c.state = cursorWanted
			f.mutex.Unlock()
			f.rouse()
		default:
			f.mutex.Unlock()
		}
		select {
		case <-c.ready:
		case <-ctx.Done():
			return Fetched{}, context.Cause(ctx)
		}
	}
}

// Done gives back the room that an answer took.
func (c *Cursor) Done(answer *Fetched) {
	f := c.fetcher
	f.mutex.Lock()
	f.held -= len(answer.data)
	f.mutex.Unlock()
	answer.data = nil
	f.rouse()
}

// Trouble is why the last request failed, nil if it did not.
func (f *Fetcher) Trouble() error {
	f.mutex.Lock()
	defer f.mutex.Unlock()
	return f.trouble
}

func (f *Fetcher) rouse() {
	select {
	case f.wake <- struct{}{}:
	default:
	}
}

// Run fetches until ctx ends.
func (f *Fetcher) Run(ctx context.Context) {
	var underWay sync.WaitGroup
	defer underWay.Wait()
	for {
		for broker, cursors := range f.free(ctx) {
			f.launch(ctx, broker, cursors, &underWay)
		}
		select {
		case <-f.wake:
		case <-ctx.Done():
			return
		}
	}
}

// free lists the cursors that are to be fetched, by broker.
func (f *Fetcher) free(ctx context.Context) map[int32][]*Cursor {
	f.mutex.Lock()
	var all []*Cursor
	for _, c := range f.cursors {
		if c.state == cursorWanted {
			all = append(all, c)
		}
	}
	f.mutex.Unlock()
	byBroker := map[int32][]*Cursor{}
	for _, c := range all {
		leader, err := f.broker.leader(ctx, c.want.Target)
		if err != nil {
			f.fail(c, err)
			continue
		}
		f.mutex.Lock()
		c.want.leader = leader
		from := leader.Leader
		if c.follower >= 0 && time.Now().Before(c.until) {
			from = c.follower
		}
		c.want.fromFollower = from != leader.Leader
		f.mutex.Unlock()
		byBroker[from] = append(byBroker[from], c)
	}
	return byBroker
}

// fail hands an error to whoever reads the cursor.
func (f *Fetcher) fail(c *Cursor, err error) {
	f.mutex.Lock()
	defer f.mutex.Unlock()
	if c.state != cursorForgotten {
		c.state = cursorResting
		c.tell(err)
	}
}

// tell has the reader look. The fetcher's mutex is held.
func (c *Cursor) tell(err error) {
	c.err = err
	select {
	case c.ready <- struct{}{}:
	default:
	}
}

// launch sends a request for cursors of one broker, if it may have another one.
func (f *Fetcher) launch(ctx context.Context, broker int32, cursors []*Cursor, underWay *sync.WaitGroup) {
	f.mutex.Lock()
	defer f.mutex.Unlock()
	// Some may have been closed since they were looked at.
	cursors = slices.DeleteFunc(cursors, func(c *Cursor) bool { return c.state != cursorWanted })
	if len(cursors) == 0 {
		return
	}
	flying := f.flights[broker]
	if flying == nil {
		flying = &flights{}
		f.flights[broker] = flying
	}
	wait := longWait
	switch {
	case !flying.long:
		flying.long = true
	case flying.short < mostShort:
		flying.short++
		wait = shortWait
	default:
		return // the next that comes back looks again
	}
	slices.SortFunc(cursors, func(a, b *Cursor) int { return int(a.served - b.served) })
	parts, rack := make([]wanted, len(cursors)), f.options.Rack
	for i, c := range cursors {
		parts[i], c.state = c.want, cursorUnderWay
		if time.Now().Before(c.leaderOnly) {
			rack = ""
		}
	}
	most := min(max(answersMaxBytes-f.held, FetchMaxBytes), responseMaxBytes)
	f.held += most
	request := fetchRequest(parts, wait, most, FetchMaxBytes, rack)
	underWay.Go(func() {
		defer f.rouse()
		err := f.broker.fetchFrom(ctx, broker, request, func(topic string, id TopicID, part *kmsg.FetchResponseTopicPartition) {
			for _, c := range cursors {
				if c.want.Partition == int(part.Partition) && (c.want.Topic == topic || topic == "" && c.want.id == id) {
					f.take(c, part)
				}
			}
		})
		f.land(flying, wait, most, cursors, err)
		if err != nil && ctx.Err() == nil {
			f.failed(ctx, broker, flying.failures, err)
		}
		f.mutex.Lock()
		defer f.mutex.Unlock()
		for _, c := range cursors {
			if c.state == cursorUnderWay { // there was no answer for it, or an empty one
				c.state = cursorWanted
			}
		}
	})
}

// land notes that a request has come back.
func (f *Fetcher) land(flying *flights, wait time.Duration, most int, cursors []*Cursor, err error) {
	f.mutex.Lock()
	defer f.mutex.Unlock()
	f.held -= most
	if wait == longWait {
		flying.long = false
	} else {
		flying.short--
	}
	flying.failures++
	f.trouble = err
	if err == nil {
		flying.failures = 0
		return
	}
	for _, c := range cursors {
		c.noFollower() // it may be gone
	}
}

// failed waits after a request that failed. Leaders may have moved.
func (f *Fetcher) failed(ctx context.Context, broker int32, failures int, err error) {
	f.broker.forget()
	if f.options.Retried != nil {
		f.options.Retried()
	}
	retry.Log(f.logger, "cannot fetch from a broker, trying again", err, failures-1, "broker", broker)
	retry.Pause(ctx, patience, failures-1)
}

// noFollower has the cursor fetch from the leader, for a while, if it has fetched from a follower. The fetcher's mutex is
// held.
func (c *Cursor) noFollower() {
	if c.follower >= 0 {
		c.follower, c.leaderOnly = -1, time.Now().Add(followerEndures)
	}
}

// take gives its part of an answer to a cursor.
func (f *Fetcher) take(c *Cursor, part *kmsg.FetchResponseTopicPartition) {
	f.mutex.Lock()
	defer f.mutex.Unlock()
	if c.state != cursorUnderWay {
		return
	}
	if part.PreferredReadReplica >= 0 && errorOf(part.ErrorCode) == nil && len(part.RecordBatches) == 0 {
		c.follower, c.until = part.PreferredReadReplica, time.Now().Add(followerEndures)
		return
	}
	answer, err := c.want.read(part)
	switch {
	case err != nil && c.want.fromFollower:
		c.noFollower() // it may be behind; the leader knows
		return
	case err != nil:
		f.broker.forget()
		c.state = cursorResting
		c.tell(err)
		return
	case answer.Next == answer.From:
		return // nothing new, or a batch that did not fit behind those of others: this one comes first then
	}
	f.round++
	c.served = f.round
	answer.data = slices.Clone(answer.data) // the rest of the broker's answer is others'
	f.held += len(answer.data)
	c.want.offset, c.want.epoch = answer.Next, answer.Epoch
	c.answer, c.state = answer, cursorAnswered
	c.tell(nil)
}
