package kafka

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	kafkago "github.com/segmentio/kafka-go"

	"tollgate/internal/kafka/recordbatch"
	"tollgate/internal/retry"
)

const (
	// maxProduceBytes keeps a batch below the broker's default limit (message.max.bytes, 1 MiB), uncompressed.
	maxProduceBytes = 900 << 10
	recordOverhead  = 64
	// topicPatience is how long a topic may refuse everything, as one does that is being made, before what was
	// to go there goes elsewhere.
	topicPatience = 5 * time.Second
	// mostReplacements bounds how often a record is replaced by another that is refused as well.
	mostReplacements = 3
)

// PublisherOptions are how a publisher publishes.
type PublisherOptions struct {
	Compression recordbatch.Compression
	// Published is told of records that are acknowledged and how long that took. May be nil.
	Published func(records []Message, took time.Duration)
	// Retried is told of every further try. May be nil.
	Retried func()
}

// Publisher writes records with acks=all, at once: no record waits for others to fill a batch. Its methods may be
// called concurrently.
//
// Each publication has a session of its own with the brokers (an idempotent producer), so that a batch whose answer
// was lost is written once however often it is sent. Sequence numbers must arrive in order, so a session has one
// publication at a time; those that are free are used again.
type Publisher struct {
	broker   Broker
	options  PublisherOptions
	logger   *slog.Logger
	balancer kafkago.Murmur2Balancer // agrees with the Java client's partitioner

	refusing refusing

	mutex sync.Mutex
	free  []*session
}

// NewPublisher makes a publisher.
func NewPublisher(broker Broker, options PublisherOptions, logger *slog.Logger) *Publisher {
	if options.Published == nil {
		options.Published = func([]Message, time.Duration) {}
	}
	if options.Retried == nil {
		options.Retried = func() {}
	}
	return &Publisher{
		broker: broker, options: options, logger: logger, refusing: refusing{topics: map[string]refusedSince{}},
	}
}

// Refused says what to write in the place of a record that a broker will not take, and why it does not. It is asked
// of single records that will never be taken, and of all records for a topic that takes none; ok is false if these
// shall wait until it does.
type Refused func(record Message, err error) (instead []Message, ok bool)

// Delivery is how records are published.
type Delivery struct {
	Refused Refused
	// Confirm is called before each try, and once more when its requests are ready to be sent: preparing them takes a
	// while, in which the process may be stopped. It fails if there must be no try. May be nil.
	Confirm func(ctx context.Context) error
	// Failed is told why a try failed, a *TopicError. If it fails, there is no other. May be nil.
	Failed func(err error) error
}

// TopicError is why something could not be written to a topic.
type TopicError struct {
	Target // the partition is AnyPartition if it is not known
	Err    error
}

func (e *TopicError) Error() string {
	if e.Partition == AnyPartition {
		return fmt.Sprintf("publish to %s: %v", e.Topic, e.Err)
	}
	return fmt.Sprintf("publish to %s: %v", e.Target, e.Err)
}

func (e *TopicError) Unwrap() error { return e.Err }

// Publish writes the records and returns when all are acknowledged. Within a partition they keep their order, also
// over retries. It tries until it succeeds, Confirm fails or ctx ends.
func (p *Publisher) Publish(ctx context.Context, records []Message, how Delivery) error {
	s := p.session()
	w := publication{Publisher: p, Delivery: how, write: s.write, insist: true, abandoned: new(bool)}
	err := w.publish(ctx, records)
	if err == nil && !*w.abandoned { // else a batch of the session may be under way still
		p.release(s)
	}
	return err
}

func (p *Publisher) session() *session {
	p.mutex.Lock()
	defer p.mutex.Unlock()
	if n := len(p.free); n > 0 {
		s := p.free[n-1]
		p.free = p.free[:n-1]
		return s
	}
	return &session{publisher: p}
}

func (p *Publisher) release(s *session) {
	p.mutex.Lock()
	defer p.mutex.Unlock()
	p.free = append(p.free, s)
}

// confirmation fails if a request that is ready must not be sent.
type confirmation func(ctx context.Context) error

// publication is records on their way.
type publication struct {
	*Publisher
	Delivery
	// write writes a batch for each of the partitions, if it is confirmed once more, and says what went wrong with which.
	write  func(ctx context.Context, batches map[Target][]Message, confirm confirmation) map[Target]error
	insist bool // try until it succeeds
	// abandoned says that a batch was given up whose fate is not known.
	abandoned *bool
	replaced  int // how often what is written now was put in another record's place
}

// publish writes what goes to each partition, in order, in batches of bounded size.
func (w *publication) publish(ctx context.Context, records []Message) error {
	rest, sizes := map[Target][]Message{}, sizes{bytes: map[Target]int{}, tried: map[Target]int{}}
	for failures := 0; len(records) > 0 || len(rest) > 0; {
		instead := w.giveUp(&records, rest, sizes)
		var unrouted error
		records, unrouted = w.route(ctx, records, rest)
		if err := w.confirm(ctx); err != nil {
			return err
		}
		refused, unwritten := w.writeOnce(ctx, rest, sizes)
		if err := w.replace(ctx, append(instead, w.insteadOf(refused)...)); err != nil {
			return err
		}
		failed := cmp.Or(unrouted, unwritten)
		if failed == nil {
			failures = 0
			continue
		}
		if !w.insist {
			return failed
		}
		if ctx.Err() != nil {
			return fmt.Errorf("%w: %w", failed, context.Cause(ctx))
		}
		if err := w.failed(ctx, failed, failures); err != nil {
			return err
		}
		failures++
	}
	return nil
}

func (w *publication) confirm(ctx context.Context) error {
	if w.Confirm == nil {
		return nil
	}
	return w.Confirm(ctx)
}

// failed waits before another try, if there is to be one.
func (w *publication) failed(ctx context.Context, err error, before int) error {
	if w.Failed != nil {
		if err := w.Failed(err); err != nil {
			return err
		}
	}
	retry.Log(w.logger, "cannot publish, trying again", err, before)
	w.options.Retried()
	w.broker.forget()
	policy := patience
	if IsTopicRefused(err) { // it is given up at a time
		policy.Longest = topicPatience / 10
	}
	retry.Pause(ctx, policy, before)
	return nil
}

// route sorts records by where they go. It returns those for which that cannot be found out now, and why.
//
// All records of a topic are routed together: one that came later would be written before those that came earlier, or
// change a batch that is under way.
func (w *publication) route(ctx context.Context, records []Message, into map[Target][]Message) (unrouted []Message, err error) {
	layouts := map[string]Layout{}
	for _, record := range records {
		layout, asked := layouts[record.Topic]
		if !asked {
			var layoutErr error
			if layout, layoutErr = w.broker.layout(ctx, record.Topic); layoutErr != nil {
				w.refusing.note(record.Topic, layoutErr)
				err = &TopicError{Target{record.Topic, AnyPartition}, layoutErr}
			}
			layouts[record.Topic] = layout
		}
		if len(layout.Partitions) == 0 {
			unrouted = append(unrouted, record)
			continue
		}
		// A partition that is not there is the sender's mistake; the key still leads somewhere where the
		// answer can be found.
		if record.Partition < 0 || record.Partition >= len(layout.Partitions) {
			record.Partition = w.partitionOf(&record, len(layout.Partitions))
		}
		to := Target{record.Topic, record.Partition}
		into[to] = append(into[to], record)
	}
	return unrouted, err
}

func (p *Publisher) partitionOf(record *Message, partitions int) int {
	return p.balancer.Balance(*record, ids(partitions)...)
}

// PartitionFor is the partition that a key leads to.
func PartitionFor(key []byte, partitions int) int {
	return kafkago.Murmur2Balancer{Consistent: true}.Balance(Message{Key: key}, ids(partitions)...)
}

// ids are the numbers from 0 on.
func ids(n int) []int {
	list := make([]int, n)
	for i := range list {
		list[i] = i
	}
	return list
}

// sizes are how large the next batches are.
type sizes struct {
	bytes map[Target]int // at the most; nothing for maxProduceBytes
	// tried is how many records the last batch had whose fate is not known: it is sent again as it was.
	tried map[Target]int
}

// refusal is a record that was refused, and why.
type refusal struct {
	record Message
	err    error
}

// writeOnce tries to write a batch to each partition, and takes what is settled from rest. It returns the records
// that will never be taken, and why something else was not written.
func (w *publication) writeOnce(ctx context.Context, rest map[Target][]Message, sizes sizes) (refused []refusal, failed error) {
	if len(rest) == 0 {
		return nil, nil
	}
	batches := make(map[Target][]Message, len(rest))
	for to, waiting := range rest {
		batches[to] = waiting[:cmp.Or(sizes.tried[to], countWithin(waiting, cmp.Or(sizes.bytes[to], maxProduceBytes)))]
	}
	began := time.Now()
	failures := w.write(ctx, batches, w.confirm)
	for to, batch := range batches {
		delete(sizes.tried, to)
		switch err := failures[to]; {
		case err == nil:
			w.options.Published(batch, time.Since(began))
			w.refusing.clear(to.Topic)
			rest[to] = rest[to][len(batch):]
		case isRecordRefused(err) && len(batch) > 1: // one of them is: find out which
			sizes.bytes[to] = max(1, sizeOf(batch)/2)
		case isRecordRefused(err):
			refused = append(refused, refusal{batch[0], err})
			rest[to] = rest[to][1:]
			delete(sizes.bytes, to)
		default:
			w.refusing.note(to.Topic, err)
			sizes.tried[to] = len(batch)
			failed = &TopicError{to, err}
		}
		if len(rest[to]) == 0 {
			delete(rest, to)
		}
	}
	return refused, failed
}

// insteadOf is what takes the place of records that will never be taken.
func (w *publication) insteadOf(refused []refusal) (instead []Message) {
	for _, r := range refused {
		others, _ := w.Refused(r.record, r.err)
		instead = append(instead, others...)
	}
	return instead
}

// giveUp replaces what goes to topics that have refused everything for long, unless it is to wait for them: records that
// are not routed yet in their places, so that those of a customer stay in order, and others as it returns them.
func (w *publication) giveUp(records *[]Message, rest map[Target][]Message, sizes sizes) (instead []Message) {
	for topic, err := range w.refusing.forLong() {
		var kept []Message
		for _, record := range *records {
			if others, ok := w.givenUp(record, topic, err); ok {
				kept = append(kept, others...)
			} else {
				kept = append(kept, record)
			}
		}
		*records = kept
		for to, waiting := range rest {
			left := slices.DeleteFunc(slices.Clone(waiting), func(record Message) bool {
				others, ok := w.givenUp(record, topic, err)
				instead = append(instead, others...)
				return ok
			})
			if len(left) < len(waiting) {
				*w.abandoned = true
				delete(sizes.tried, to)
			}
			if rest[to] = left; len(left) == 0 {
				delete(rest, to)
			}
		}
	}
	return instead
}

// givenUp is what takes the place of a record if it is for a topic that is given up.
func (w *publication) givenUp(record Message, topic string, err error) (others []Message, ok bool) {
	if record.Topic != topic {
		return nil, false
	}
	return w.Refused(record, err)
}

// replace writes what takes the place of records that were refused.
func (w *publication) replace(ctx context.Context, instead []Message) error {
	if len(instead) == 0 {
		return nil
	}
	if w.replaced == mostReplacements {
		w.logger.Error("a record is refused, and so is what was put in its place; it is lost", "topic", instead[0].Topic, "records", len(instead))
		return nil
	}
	nested := *w
	nested.replaced++
	if !w.insist {
		return nested.publish(ctx, instead)
	}
	s := w.session() // of the other, a batch may be under way to where these go
	nested.write, nested.abandoned = s.write, new(bool)
	err := nested.publish(ctx, instead)
	if err == nil && !*nested.abandoned {
		w.release(s)
	}
	return err
}

// write is a session that begins when it is needed.
func (s *session) write(ctx context.Context, batches map[Target][]Message, confirm confirmation) map[Target]error {
	return s.publisher.writeIdempotently(ctx, s, batches, confirm)
}

func sizeOf(records []Message) int {
	size := 0
	for i := range records {
		size += recordSize(&records[i])
	}
	return size
}

func recordSize(record *Message) int {
	size := recordOverhead + len(record.Key) + len(record.Value)
	for _, header := range record.Headers {
		size += len(header.Key) + len(header.Value) + 4
	}
	return size
}

// countWithin is how many records, at least one, fit within so many bytes.
func countWithin(records []Message, limit int) int {
	size := 0
	for i := range records {
		size += recordSize(&records[i])
		if size > limit && i > 0 {
			return i
		}
	}
	return len(records)
}
