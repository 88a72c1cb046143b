package kafka

import (
	"context"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"tollgate/internal/kafka/recordbatch"
)

// Member is one that a test makes up.
func Member(group, id string, generation int) *member {
	return &member{group: group, id: id, generation: int32(generation)}
}

func (m *member) Heartbeat(ctx context.Context, b Broker) error { return m.heartbeat(ctx, b) }

func (m *member) Commit(ctx context.Context, b Broker, at Target, offset int64) error {
	return m.commit(ctx, b, map[Target]Commitment{at: {Offset: offset, Epoch: -1}})
}

// MadeUp is a generation that a test makes up.
func MadeUp(b Broker, m *member, session time.Duration) *Generation {
	g := &Generation{broker: b, member: *m, session: session, rebalance: time.Minute}
	g.start(time.Now())
	return g
}

// Answered has a generation hear the answer to a heartbeat that was sent some time after it was settled last, and a group
// that waits for so long.
func Answered(rebalance, after time.Duration) error {
	settled := time.Now()
	g := &Generation{rebalance: rebalance, settled: settled, confirmed: settled, lose: func(error) {}}
	return g.answered(settled.Add(after), false)
}

// Trusts says whether a generation that was confirmed at a time, by both clocks, still trusts that now.
func Trusts(session, rebalance time.Duration, now, confirmed, settled time.Time) bool {
	g := &Generation{session: session, rebalance: rebalance, confirmed: confirmed, settled: settled}
	return g.isTrusted(now)
}

// SyncAs syncs as a member that the group does not know.
func (g *Group) SyncAs(ctx context.Context, id string, generation int) error {
	g.member.id = id
	_, _, err := g.sync(ctx, &kmsg.JoinGroupResponse{Generation: int32(generation), LeaderID: "another"}, nil)
	return err
}

// Forgotten has the group remove the member, which does not learn of it.
func (g *Group) Forgotten(ctx context.Context) error {
	id := g.member.id
	defer func() { g.member.id = id }()
	return g.Leave(ctx)
}

// FetchAt fetches at an offset, as one that has read up to there what a leader of an epoch wrote.
func (b Broker) FetchAt(ctx context.Context, at Target, offset int64, epoch int32) error {
	_, err := b.fetchOne(ctx, wanted{Target: at, offset: offset, epoch: epoch}, 0, FetchMaxBytes)
	return err
}

// ProduceAs writes a record as a producer that has written others.
func (p *Publisher) ProduceAs(ctx context.Context, to Target, producer recordbatch.Producer, record Message) error {
	s := &session{publisher: p, begun: true, producer: producer, sequences: map[Target]int32{to: producer.Sequence}}
	return p.produce(ctx, s, "", map[Target][]Message{to: {record}}, func(context.Context) error { return nil })[to]
}

// BeginSession begins a session of an idempotent producer, or a transactional one that may be open for a time.
func (p *Publisher) BeginSession(ctx context.Context, transactionalID string, timeout time.Duration) (recordbatch.Producer, error) {
	s := &session{publisher: p}
	err := s.begin(ctx, transactionalID, timeout)
	return s.producer, err
}

// Impersonate has transactions go on as another producer.
func (t *Transactions) Impersonate(producer recordbatch.Producer) {
	t.session.begun, t.session.producer, t.session.sequences, t.joined = true, producer, map[Target]int32{}, map[Target]bool{}
}

// Join adds a partition to a transaction.
func (t *Transactions) Join(ctx context.Context, at Target) error {
	return t.join(ctx, []Target{at})[at]
}

// JoinAll adds partitions to a transaction, and says why which of them were not.
func (t *Transactions) JoinAll(ctx context.Context, targets ...Target) map[Target]error {
	return t.join(ctx, targets)
}

// JoinOffsets adds a group's offsets to a transaction.
func (t *Transactions) JoinOffsets(ctx context.Context, group string) error {
	return t.joinOffsets(ctx, group)
}

// FreeSessions is how many sessions no publication has.
func (p *Publisher) FreeSessions() int {
	p.mutex.Lock()
	defer p.mutex.Unlock()
	return len(p.free)
}
