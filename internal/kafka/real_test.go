//go:build real

package kafka_test

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"net"
	"slices"
	"sync"
	"testing"
	"time"

	kafkago "github.com/segmentio/kafka-go"

	"tollgate/internal/kafka"
	"tollgate/internal/realtest"
)

// received counts what comes from each broker, by its address.
type received struct {
	mutex sync.Mutex
	bytes map[string]int
}

func (r *received) from(addr string) int {
	r.mutex.Lock()
	defer r.mutex.Unlock()
	return r.bytes[addr]
}

func (r *received) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	connection, err := (&net.Dialer{}).DialContext(ctx, network, addr)
	return &countedConnection{connection, r, addr}, err
}

type countedConnection struct {
	net.Conn
	received *received
	addr     string
}

func (c *countedConnection) Read(into []byte) (int, error) {
	n, err := c.Conn.Read(into)
	c.received.mutex.Lock()
	defer c.received.mutex.Unlock()
	c.received.bytes[c.addr] += n
	return n, err
}

// TestAFollowerThatIsNearIsFetchedFromOnRealKafka, and the leader once the follower is gone.
func TestAFollowerThatIsNearIsFetchedFromOnRealKafka(t *testing.T) {
	c := realtest.StartKafkaCluster(t, 3)
	counts := &received{bytes: map[string]int{}}
	transport := &kafkago.Transport{MetadataTTL: time.Second, Dial: counts.dial}
	t.Cleanup(transport.CloseIdleConnections)
	f := newFixtureOn(t, kafka.NewBroker(c.Addrs(), transport))
	c.AwaitWhole(t, f.at.Topic)
	leader, follower := c.Leader(t, f.at.Topic, 0), c.Followers(t, f.at.Topic, 0)[0]
	near := realtest.Rack(1 + slices.Index(c.Brokers, follower))
	cursor := f.fetchingWith(kafka.FetcherOptions{Rack: near}).Open(f.at, f.topicID(), 0, -1)
	defer cursor.Close()

	fromLeader, fromFollower := f.readsBack(cursor, counts, leader, follower)
	if fromFollower < recordsBytes || fromLeader > recordsBytes/10 {
		t.Errorf("of %d bytes %d came from the follower in the rack, %d from the leader", recordsBytes, fromFollower, fromLeader)
	}
	follower.Kill(t)
	if fromLeader, _ = f.readsBack(cursor, counts, leader, follower); fromLeader < recordsBytes {
		t.Errorf("without the follower %d bytes of %d came from the leader", fromLeader, recordsBytes)
	}
	follower.Start(t)
}

const (
	recordBytes  = 50_000
	recordsBytes = 40 * recordBytes
)

// readsBack writes records and reads them, each once and in order, and returns what came from either broker meanwhile.
func (f *fixture) readsBack(cursor *kafka.Cursor, counts *received, leader, follower *realtest.Kafka) (fromLeader, fromFollower int) {
	f.Helper()
	leaderBefore, followerBefore := counts.from(leader.Addr), counts.from(follower.Addr)
	var wrote, read []string
	for range recordsBytes / recordBytes {
		noise := make([]byte, recordBytes/2) // which no compression makes smaller
		_, _ = rand.Read(noise)
		wrote = append(wrote, hex.EncodeToString(noise))
		f.write(wrote[len(wrote)-1])
	}
	for len(read) < len(wrote) {
		read = append(read, f.next(cursor)...)
	}
	if !slices.Equal(read, wrote) {
		f.Errorf("%d records were read, which are not the %d that were written", len(read), len(wrote))
	}
	return counts.from(leader.Addr) - leaderBefore, counts.from(follower.Addr) - followerBefore
}
