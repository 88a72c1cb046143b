package kafka

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"time"

	kafkago "github.com/segmentio/kafka-go"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// GroupOptions are how a consumer takes part in a group.
type GroupOptions struct {
	Group  string
	Topics []string
	// InstanceID names a member that keeps its partitions over a restart within the session timeout (static
	// membership, KIP-345); "" for none.
	InstanceID string
	// SessionTimeout is after how long a silent member loses its partitions.
	SessionTimeout time.Duration
	// RebalanceTimeout is how long the group waits for its members to hand over.
	RebalanceTimeout time.Duration
}

// Group is a consumer's part in a consumer group. Its methods are called one at a time.
//
// kafka-go's ConsumerGroup ends its heartbeats when a generation does, so that partitions are given away while
// they are handed over; it cannot be a static member (its issue 493); it reads the layouts of all topics of
// the cluster, and takes a topic that is missing at the wrong moment for one without partitions.
type Group struct {
	broker  Broker
	options GroupOptions
	logger  *slog.Logger
	member  member
	// nonce is part of what the member says of itself.
	nonce []byte
}

const (
	// Java's "range" assignor, which other members of the group have to know, too.
	protocolType = "consumer"
	protocolName = "range"
)

// NewGroup prepares taking part in a group. Nothing is sent yet.
func NewGroup(broker Broker, options GroupOptions, logger *slog.Logger) *Group {
	g := &Group{broker: broker, options: options, logger: logger, member: member{group: options.Group, generation: -1}}
	if options.InstanceID != "" {
		g.member.instance = &options.InstanceID
	}
	return g
}

// Renew has the next Join lead to another generation. A member that joins a group again without having changed gets the
// generation that it had, in which a commit whose answer was lost may still take effect.
func (g *Group) Renew() { g.nonce = []byte(rand.Text()) }

// mostOvertaken bounds how often joining begins anew because the group has gone on meanwhile.
const mostOvertaken = 10

// Join joins the group, or joins it again after a generation, and waits for its other members. It tries once, but is
// not content with having been overtaken: the group does not know the member any more, or another has joined before
// this one had its partitions. The others wait for this one then, and would give it up if it paused first.
func (g *Group) Join(ctx context.Context) (*Generation, error) {
	layouts, failures, err := g.broker.Describe(ctx, g.options.Topics)
	if err != nil {
		return nil, err
	}
	for topic, err := range failures {
		if errors.Is(err, kafkago.TopicAuthorizationFailed) {
			return nil, err
		}
		g.logger.Warn("a topic cannot be consumed", "topic", topic, "error", err)
	}
	ctx, cancel := context.WithTimeout(ctx, g.options.RebalanceTimeout+g.options.SessionTimeout+askTimeout)
	defer cancel()
	for overtaken := 0; ; overtaken++ {
		generation, err := g.joinOnce(ctx, layouts)
		if err == nil || !isOvertaken(err) || overtaken == mostOvertaken {
			return generation, err
		}
		g.logger.Debug("the group has gone on while it was joined; joining again", "group", g.options.Group, "error", err)
	}
}

func isOvertaken(err error) bool {
	return errors.Is(err, kafkago.RebalanceInProgress) || errors.Is(err, kafkago.UnknownMemberId) || errors.Is(err, kafkago.IllegalGeneration)
}

func (g *Group) joinOnce(ctx context.Context, layouts map[string]Layout) (*Generation, error) {
	joined, err := g.join(ctx, layouts)
	if err != nil {
		return nil, g.forgetIfFenced(err)
	}
	asked := time.Now()
	assignments, seen, err := g.sync(ctx, joined, layouts)
	if err != nil {
		return nil, g.forgetIfFenced(err)
	}
	generation := &Generation{
		ID: int(joined.Generation), Member: g.member.id, Assignments: assignments, Layouts: layouts,
		Stale:  !bytes.Equal(seen, digest(layouts)),
		broker: g.broker, member: g.member, session: g.options.SessionTimeout, rebalance: g.options.RebalanceTimeout,
	}
	generation.start(asked)
	return generation, nil
}

// forgetIfFenced begins as a new member after the group has given us up.
func (g *Group) forgetIfFenced(err error) error {
	if errors.Is(err, kafkago.UnknownMemberId) || errors.Is(err, kafkago.FencedInstanceID) {
		g.member.id = ""
	}
	return err
}

func (g *Group) join(ctx context.Context, layouts map[string]Layout) (*kmsg.JoinGroupResponse, error) {
	// The group rebalances if what a member says of itself has changed, whichever member that is.
	subscription := kmsg.NewConsumerMemberMetadata()
	subscription.Topics, subscription.UserData = slices.Sorted(slices.Values(g.options.Topics)), append(digest(layouts), g.nonce...)
	request := kmsg.NewPtrJoinGroupRequest()
	request.Version, request.Group, request.ProtocolType = joinGroupVersion, g.options.Group, protocolType
	request.SessionTimeoutMillis, request.RebalanceTimeoutMillis = int32(g.options.SessionTimeout.Milliseconds()), int32(g.options.RebalanceTimeout.Milliseconds())
	request.InstanceID = g.member.instance
	request.Protocols = []kmsg.JoinGroupRequestProtocol{{Name: protocolName, Metadata: subscription.AppendTo(nil)}}
	for {
		request.MemberID = g.member.id
		response, err := ask[*kmsg.JoinGroupResponse](ctx, g.broker, request, coordinatorOf(g.options.Group))
		if err != nil {
			return nil, fmt.Errorf("join the group %s: %w", g.options.Group, err)
		}
		err = errorOf(response.ErrorCode)
		if err == nil || errors.Is(err, kafkago.MemberIDRequired) {
			g.member.id, g.member.generation = response.MemberID, response.Generation
		}
		if err == nil {
			return response, nil
		}
		if !errors.Is(err, kafkago.MemberIDRequired) || request.MemberID != "" {
			return nil, fmt.Errorf("join the group %s: %w", g.options.Group, err)
		}
	}
}

// digest is a short text that changes with the layouts.
func digest(layouts map[string]Layout) []byte {
	hash := sha256.New()
	for _, topic := range slices.Sorted(maps.Keys(layouts)) {
		fmt.Fprintf(hash, "%q %s %d\n", topic, layouts[topic].ID, len(layouts[topic].Partitions))
	}
	return hash.Sum(nil)[:8]
}

// Differ says whether other partitions would be assigned by the one than by the other layouts.
func Differ(a, b map[string]Layout) bool { return string(digest(a)) != string(digest(b)) }

// sync learns what partitions are ours; as the group's leader it says who has which. seen is the digest of the layouts
// that they were divided by. A static member that comes back gets what it had, whatever has changed since.
func (g *Group) sync(ctx context.Context, joined *kmsg.JoinGroupResponse, layouts map[string]Layout) (assignments map[string][]int, seen []byte, err error) {
	kind, name := protocolType, protocolName
	request := kmsg.NewPtrSyncGroupRequest()
	request.Version, request.Group, request.Generation = syncGroupVersion, g.options.Group, joined.Generation
	request.MemberID, request.InstanceID, request.ProtocolType, request.Protocol = g.member.id, g.member.instance, &kind, &name
	if joined.LeaderID == g.member.id {
		if request.GroupAssignment, err = assign(joined.Members, layouts); err != nil {
			return nil, nil, err
		}
	}
	response, err := ask[*kmsg.SyncGroupResponse](ctx, g.broker, request, coordinatorOf(g.options.Group))
	if err == nil {
		err = errorOf(response.ErrorCode)
	}
	if err != nil {
		return nil, nil, fmt.Errorf("sync the group %s: %w", g.options.Group, err)
	}
	assigned := kmsg.NewConsumerMemberAssignment()
	if len(response.MemberAssignment) > 0 {
		if err := assigned.ReadFrom(response.MemberAssignment); err != nil {
			return nil, nil, fmt.Errorf("sync the group %s: the leader's assignment: %w", g.options.Group, err)
		}
	}
	assignments = map[string][]int{}
	for _, topic := range assigned.Topics {
		for _, partition := range topic.Partitions {
			assignments[topic.Topic] = append(assignments[topic.Topic], int(partition))
		}
	}
	return assignments, assigned.UserData, nil
}

// assign divides the partitions of all topics: partition n of every topic goes to the same member, so that a
// customer's checks and commands do.
func assign(members []kmsg.JoinGroupResponseMember, layouts map[string]Layout) ([]kmsg.SyncGroupRequestGroupAssignment, error) {
	var known []kafkago.GroupMember
	for _, m := range members {
		subscription := kmsg.NewConsumerMemberMetadata()
		if err := subscription.ReadFrom(m.ProtocolMetadata); err != nil {
			return nil, fmt.Errorf("subscription of member %s: %w", m.MemberID, err)
		}
		known = append(known, kafkago.GroupMember{ID: sortKey(m), Topics: subscription.Topics})
	}
	var partitions []kafkago.Partition
	for topic, layout := range layouts {
		for id := range layout.Partitions {
			partitions = append(partitions, kafkago.Partition{Topic: topic, ID: id})
		}
	}
	divided := kafkago.RangeGroupBalancer{}.AssignGroups(known, partitions)
	var all []kmsg.SyncGroupRequestGroupAssignment
	for _, m := range members {
		assignment := kmsg.NewConsumerMemberAssignment()
		assignment.UserData = digest(layouts)
		for _, topic := range slices.Sorted(maps.Keys(divided[sortKey(m)])) {
			part := kmsg.NewConsumerMemberAssignmentTopic()
			part.Topic = topic
			for _, id := range divided[sortKey(m)][topic] {
				part.Partitions = append(part.Partitions, int32(id))
			}
			assignment.Topics = append(assignment.Topics, part)
		}
		all = append(all, kmsg.SyncGroupRequestGroupAssignment{MemberID: m.MemberID, MemberAssignment: assignment.AppendTo(nil)})
	}
	return all, nil
}

// sortKey is what members are sorted by: static ones by their instance, so that they keep their partitions
// when the group rebalances. Their member ids are new after each restart.
func sortKey(m kmsg.JoinGroupResponseMember) string {
	if m.InstanceID != nil {
		return "static " + *m.InstanceID
	}
	return "member " + m.MemberID
}

// Leave leaves the group, whose other members get the partitions at once. A static member stays: it is to
// come back.
func (g *Group) Leave(ctx context.Context) error {
	if g.member.id == "" || g.member.instance != nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	request := kmsg.NewPtrLeaveGroupRequest()
	request.Version, request.Group = leaveGroupVersion, g.options.Group
	leaving := kmsg.NewLeaveGroupRequestMember()
	leaving.MemberID = g.member.id
	request.Members = []kmsg.LeaveGroupRequestMember{leaving}
	g.member.id = ""
	response, err := ask[*kmsg.LeaveGroupResponse](ctx, g.broker, request, coordinatorOf(g.options.Group))
	if err == nil {
		err = errorOf(response.ErrorCode)
	}
	if err != nil {
		return fmt.Errorf("leave the group %s: %w", g.options.Group, err)
	}
	return nil
}
