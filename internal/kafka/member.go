package kafka

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	kafkago "github.com/segmentio/kafka-go"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// ErrFenced says that a group or a transaction has gone on without us: another worker has what we had.
var ErrFenced = errors.New("it has another owner by now")

// ErrUnanswered says that nobody knows whether an offset was committed. What was sent may still take effect,
// after a commit that is made later: no member of this generation may make one.
var ErrUnanswered = errors.New("the answer to a commit was lost")

// member is who a group knows a consumer as, for one generation.
type member struct {
	group      string
	id         string
	instance   *string // static membership (KIP-345)
	generation int32
}

func isFenced(err error) bool {
	return errors.Is(err, kafkago.IllegalGeneration) || errors.Is(err, kafkago.UnknownMemberId) ||
		errors.Is(err, kafkago.FencedInstanceID) || errors.Is(err, kafkago.GroupIdNotFound)
}

// heartbeat asks the group whether the member still is one. It fails with ErrFenced if it is none, with
// kafka-go's RebalanceInProgress if it is but should join again, and with another error if there is no answer.
func (m *member) heartbeat(ctx context.Context, b Broker) error {
	request := kmsg.NewPtrHeartbeatRequest()
	request.Version, request.Group, request.Generation, request.MemberID, request.InstanceID = heartbeatVersion, m.group, m.generation, m.id, m.instance
	response, err := ask[*kmsg.HeartbeatResponse](ctx, b, request, coordinatorOf(m.group))
	if err == nil {
		err = errorOf(response.ErrorCode)
	}
	switch {
	case err == nil:
		return nil
	case isFenced(err):
		return fmt.Errorf("%w: %w", ErrFenced, err)
	default:
		return fmt.Errorf("heartbeat: %w", err)
	}
}

// commit commits offsets as this member. It fails with ErrFenced if the generation is over, with
// ErrUnanswered, with a *CommitError, or with another error if the group refuses for now.
func (m *member) commit(ctx context.Context, b Broker, offsets map[Target]Commitment) error {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	request := kmsg.NewPtrOffsetCommitRequest()
	request.Version, request.Group, request.Generation, request.MemberID, request.InstanceID = offsetCommitVersion, m.group, m.generation, m.id, m.instance
	byTopic := map[string][]kmsg.OffsetCommitRequestTopicPartition{}
	for at, c := range offsets {
		part := kmsg.NewOffsetCommitRequestTopicPartition()
		part.Partition, part.Offset, part.LeaderEpoch, part.Metadata = int32(at.Partition), c.Offset, c.Epoch, &c.Metadata
		byTopic[at.Topic] = append(byTopic[at.Topic], part)
	}
	for topic, parts := range byTopic {
		request.Topics = append(request.Topics, kmsg.OffsetCommitRequestTopic{Topic: topic, Partitions: parts})
	}
	response, err := ask[*kmsg.OffsetCommitResponse](ctx, b, request, coordinatorOf(m.group))
	if err != nil {
		if code := kafkago.Error(0); errors.As(err, &code) {
			return fmt.Errorf("commit: %w", err) // kafka-go knows no coordinator: it was not sent
		}
		return fmt.Errorf("%w: %w", ErrUnanswered, err)
	}
	answered, failures := 0, map[Target]error{}
	for _, topic := range response.Topics {
		for _, partition := range topic.Partitions {
			answered++
			if err := errorOf(partition.ErrorCode); err != nil {
				failures[Target{topic.Topic, int(partition.Partition)}] = err
			}
		}
	}
	if len(failures) > 0 {
		err = &CommitError{failures}
	}
	switch {
	case isFenced(err):
		return fmt.Errorf("%w: %w", ErrFenced, err)
	case err != nil:
		return fmt.Errorf("commit: %w", err)
	case answered != len(offsets):
		return fmt.Errorf("%w: it is about %d of %d partitions", ErrUnanswered, answered, len(offsets))
	}
	return nil
}

// CommitError says which offsets were not committed, and why. The others of the same commit were.
type CommitError struct{ Failures map[Target]error }

func (e *CommitError) Error() string { return errors.Join(e.Unwrap()...).Error() }

// Unwrap returns the reasons, each once.
func (e *CommitError) Unwrap() (reasons []error) {
	for _, err := range e.Failures {
		if !slices.Contains(reasons, err) {
			reasons = append(reasons, err)
		}
	}
	return reasons
}

// Generation is a time in which the members of a group and what each consumes stay the same.
type Generation struct {
	ID          int
	Member      string
	Assignments map[string][]int // partitions by topic
	// Layouts are those of the topics that the assignments come from. One that is missing does not exist.
	Layouts map[string]Layout
	// Stale says that whoever assigned the partitions has seen other layouts: they should be assigned anew.
	Stale bool

	broker  Broker
	member  member
	session time.Duration
	// rebalance is how long the group waits for its members once it has begun to rebalance.
	rebalance time.Duration

	over     context.Context // ends when the partitions are to be handed over
	end      context.CancelCauseFunc
	lost     context.Context // ends when they are another's, or may be
	lose     context.CancelCauseFunc
	beating  sync.WaitGroup
	stopBeat context.CancelFunc

	mutex     sync.Mutex // never held while the group is asked
	confirmed time.Time  // when the heartbeat was sent that the group answered last
	settled   time.Time  // the same, of the last one before it began to rebalance
}

// Over ends when the member should hand over its partitions: the group rebalances, or has given it up.
func (g *Generation) Over() context.Context { return g.over }

// Lost ends when the partitions are another member's, or may be. Its cause is ErrFenced.
func (g *Generation) Lost() context.Context { return g.lost }

// End has the partitions handed over, for a reason of the member's own.
func (g *Generation) End(reason error) { g.end(reason) }

// Partitions is how many are assigned.
func (g *Generation) Partitions() int {
	n := 0
	for _, partitions := range g.Assignments {
		n += len(partitions)
	}
	return n
}

// Commit commits offsets as a member of this generation. It fails with ErrFenced if that is over, with
// ErrUnanswered, or with another error if the group refuses for now.
func (g *Generation) Commit(ctx context.Context, offsets map[Target]Commitment) error {
	err := g.member.commit(ctx, g.broker, offsets)
	if errors.Is(err, ErrFenced) {
		g.lose(err)
	}
	return err
}

// Confirm fails with ErrFenced if the generation's partitions are another's, or may be, and with another error
// if the group does not answer.
//
// The heartbeats alone would tell too late: a process that was stopped for longer than its session (a frozen
// machine, SIGSTOP) goes on where it was, with partitions that others have by then.
func (g *Generation) Confirm(ctx context.Context) error {
	if g.lost.Err() != nil {
		return context.Cause(g.lost)
	}
	if g.isTrusted(time.Now()) {
		return nil
	}
	return g.beat(ctx)
}

// isTrusted says whether the last answer still holds. The group gives a silent member up after the session
// timeout; half of it leaves time to publish. When the group rebalances it gives up whoever has not joined
// again within the rebalance timeout.
func (g *Generation) isTrusted(now time.Time) bool {
	g.mutex.Lock()
	defer g.mutex.Unlock()
	return within(now, g.confirmed, g.session/2) && within(now, g.settled, g.rebalance)
}

// within says whether so much time has not passed by either clock. Go's monotonic clock stands still while the
// machine is suspended, and the wall clock may be set back; neither may make time last longer.
func within(now, since time.Time, most time.Duration) bool {
	onTheWall := now.Round(0).Sub(since.Round(0))
	return now.Sub(since) < most && onTheWall >= 0 && onTheWall < most
}

// beat sends a heartbeat, and ends the generation if the answer says so.
func (g *Generation) beat(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, g.session/3)
	defer cancel()
	asked := time.Now()
	err := g.member.heartbeat(ctx, g.broker)
	switch {
	case errors.Is(err, ErrFenced):
		g.lose(err)
		return err
	case errors.Is(err, kafkago.RebalanceInProgress):
		g.end(err)
	case err != nil:
		return err
	}
	return g.answered(asked, err == nil)
}

// answered notes that the group has answered a heartbeat, which may be later than one that was sent after it. It fails
// with ErrFenced if the group has waited for the member for longer than it does.
func (g *Generation) answered(asked time.Time, settled bool) error {
	g.mutex.Lock()
	defer g.mutex.Unlock()
	if settled && asked.After(g.settled) {
		g.settled = asked
	}
	if asked.After(g.confirmed) {
		g.confirmed = asked
	}
	if asked.After(g.settled) && !within(asked, g.settled, g.rebalance) {
		err := fmt.Errorf("%w: the group has waited for %v", ErrFenced, g.rebalance)
		g.lose(err)
		return err
	}
	return nil
}

// mostBetweenBeats is how far heartbeats are apart, at the most.
const mostBetweenBeats = 3 * time.Second

// keepAlive sends heartbeats until ctx ends, also while partitions are handed over: else the group would give
// them to others before that is done. A member that hears nothing for a session may have been given up.
func (g *Generation) keepAlive(ctx context.Context) {
	ticker := time.NewTicker(min(mostBetweenBeats, g.session/3))
	defer ticker.Stop()
	for g.lost.Err() == nil {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		err := g.beat(ctx)
		g.mutex.Lock()
		silent := !within(time.Now(), g.confirmed, g.session)
		g.mutex.Unlock()
		if err != nil && silent && ctx.Err() == nil {
			g.lose(fmt.Errorf("%w, perhaps: the group has not answered for %v: %w", ErrFenced, g.session, err))
		}
	}
}

// Close ends the heartbeats. What was to be done as a member of this generation must be done by then.
func (g *Generation) Close() {
	g.stopBeat()
	g.beating.Wait()
	g.lose(ErrFenced)
}

// start begins the heartbeats of a generation that was just joined: asked is when the group was asked last.
func (g *Generation) start(asked time.Time) {
	g.confirmed, g.settled = asked, asked
	// A lost generation is over, too.
	g.lost, g.lose = context.WithCancelCause(context.Background())
	g.over, g.end = context.WithCancelCause(g.lost)
	ctx, stop := context.WithCancel(context.Background())
	g.stopBeat = stop
	g.beating.Go(func() { g.keepAlive(ctx) })
}
