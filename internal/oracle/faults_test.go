package oracle

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"pgregory.net/rapid"

	"tollgate/internal/balance"
	"tollgate/internal/servertest"
	"tollgate/internal/stream"
)

// server is the tests' Redis, as the test and as the engine talk to it.
type server struct {
	admin  *redis.Client
	client *redis.Client // the engine's
	user   string        // the engine's, "" where Redis knows no users
}

// newServer gives the engine a user of its own, whose rights the test can take away. The
// embedded Redis of the tests knows no users.
func newServer(t *testing.T) *server {
	s := &server{admin: servertest.Redis(t)}
	name := servertest.Unique("oracle")
	if s.admin.Do(context.Background(), "ACL", "SETUSER", name, "on", "nopass", "~*", "&*", "+@all").Err() != nil {
		s.client = s.admin
		return s
	}
	s.user = name
	s.client = redis.NewClient(&redis.Options{Addr: s.admin.Options().Addr, Username: name, Password: "any"})
	t.Cleanup(func() {
		_ = s.client.Close()
		if err := s.admin.Do(context.Background(), "ACL", "DELUSER", name).Err(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// allow changes the rights of the engine's user.
func (s *server) allow(t *rapid.T, rule string) {
	if err := s.admin.Do(context.Background(), "ACL", "SETUSER", s.user, rule).Err(); err != nil {
		t.Fatal(err)
	}
}

// loseReply has the engine decide a batch, and its answer lost on the way. The worker, or
// the one that takes over from it, asks again.
func (d *driver) loseReply(t *rapid.T) {
	topic, other := topics.Checks, topics.Commands
	if rapid.Bool().Draw(t, "of a command") {
		topic, other = other, topic
	}
	from := d.draw(t, topic)
	if _, err := d.deliver(deadline, topic, from); err != nil {
		t.Fatal(err)
	}
	for i := range d.sent[topic][from:] {
		d.ask(&d.sent[topic][from+i])
	}
	if rapid.Bool().Draw(t, "time passes") {
		d.turnClock(drawTime(t))
	}
	if rapid.Bool().Draw(t, "meanwhile") {
		d.sendTo(t, other)
	}
	if rapid.Bool().Draw(t, "by another worker") {
		d.rebalance(t)
	} else {
		d.decide(t, topic, from)
	}
}

// wakeWorker lets a worker that lost its partition go on with a batch, which its successor
// has decided, committed and perhaps forgotten. It must learn of its loss, or get the first
// answers; it must change nothing.
func (d *driver) wakeWorker(t *rapid.T) {
	if len(d.frozen) == 0 {
		return
	}
	at := rapid.IntRange(0, len(d.frozen)-1).Draw(t, "worker")
	f := d.frozen[at]
	topic := f.batch.Topic
	if rapid.Bool().Draw(t, "forgotten") {
		d.commitUpTo(topic, int64(len(d.sent[topic])))
		const restful = 2 * time.Second
		d.turnClock(restful)
		d.restAt(topic)
	}
	out, err := decideWithin(deadline, f.decider, f.batch)
	switch {
	case errors.Is(err, stream.ErrPartitionLost):
		d.frozen = append(d.frozen[:at:at], d.frozen[at+1:]...)
	case err != nil:
		t.Fatal(err)
	default:
		for _, record := range f.batch.Records {
			s, mine := &d.sent[topic][record.Offset], outOf(&out)
			// Nothing is kept for good of a customer that nobody knew.
			if s.request.remembered() && s.want.Code != balance.CustomerNotFound {
				sameAsFirst(t, s, mine)
			}
		}
		if len(out) > 0 {
			t.Fatalf("records too many: %s", texts(out))
		}
	}
	d.touchAll(t)
}

// failLate takes one command of Redis away from the engine while it decides, so that a
// script fails behind what it has done already.
func (d *driver) failLate(t *rapid.T) {
	if d.server.user == "" || !seldom(t, "fail", 2) {
		return
	}
	topic := drawTopic(t)
	from := len(d.sent[topic])
	for range rapid.IntRange(1, 6).Draw(t, "batch") {
		r := d.drawRequest(t, topic)
		// What is not remembered may be answered before or after the rest was applied.
		switch {
		case r.remembered():
		case r.Type == "":
			r.Deduct = true
		default:
			r = request{Type: "customer.put", Customer: r.Customer, Key: r.Key}
		}
		d.add(topic, r)
	}
	command := one(t, "command taken away", "mget", "mset", "get", "set", "append", "pexpire", "unlink", "del")
	d.server.allow(t, "-"+command)
	const patience = 150 * time.Millisecond
	out, err := d.deliver(patience, topic, from)
	d.server.allow(t, "+@all")
	switch {
	case err == nil:
		d.compare(t, topic, from, out)
	case errors.Is(err, context.DeadlineExceeded):
		d.decide(t, topic, from)
	default:
		t.Fatal(err)
	}
}
