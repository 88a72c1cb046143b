package access

import (
	"encoding/binary"
	"errors"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/segmentio/kafka-go/protocol"
	"github.com/segmentio/kafka-go/protocol/apiversions"
	"pgregory.net/rapid"
)

// clock is one that only a test moves.
type clock struct{ time.Time }

func (c *clock) now() time.Time { return c.Time }

// openSession logs in for a minute. The clock of the connection is the test's.
func openSession(t *testing.T, b *broker, source TokenSource) (*session, *protocol.Conn, *clock) {
	t.Helper()
	d := &Dialer{Timeout: timeout, Mechanism: &OAuthBearer{Tokens: source}, ClientID: "test"}
	connection, err := d.DialContext(t.Context(), "tcp", b.addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = connection.Close() })
	s := connection.(*session)
	c := &clock{time.Now()}
	s.now = c.now
	return s, protocol.NewConn(s, "test"), c
}

func request(t *testing.T, connection *protocol.Conn) error {
	t.Helper()
	_, err := connection.RoundTrip(new(apiversions.Request))
	return err
}

func TestALogInIsRenewedBeforeItEnds(t *testing.T) {
	b, source := startBroker(t, time.Minute), &tokens{token: "first"}
	s, connection, c := openSession(t, b, source)
	source.token = "second"
	for _, step := range []struct {
		after time.Duration
		want  []string
	}{
		{0, []string{"first"}},
		{50 * time.Second, []string{"first"}},
		{8 * time.Second, []string{"first", "second"}},
		{time.Second, []string{"first", "second"}},
		{time.Hour, []string{"first", "second", "second"}}, // idle for longer than the log-in lasts
	} {
		c.Time = c.Add(step.after)
		if err := s.SetDeadline(time.Now().Add(timeout)); err != nil {
			t.Fatal(err)
		}
		if err := request(t, connection); err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, message := range b.logIns() {
			got = append(got, strings.TrimSuffix(strings.TrimPrefix(message, "n,,\x01auth=Bearer "), "\x01\x01"))
		}
		if !slices.Equal(got, step.want) {
			t.Fatalf("after %v: %v", step.after, got)
		}
	}
	if b.requests != 1+5 { // one of the log-in
		t.Errorf("%d requests", b.requests)
	}
}

// TestARenewalHasDeadlinesOfItsOwn: kafka-go leaves a deadline that has passed on a connection.
func TestARenewalHasDeadlinesOfItsOwn(t *testing.T) {
	b := startBroker(t, time.Minute)
	s, connection, c := openSession(t, b, &tokens{token: "t"})
	c.Time = c.Add(time.Minute)
	if err := s.SetReadDeadline(time.Unix(1, 0)); err != nil {
		t.Fatal(err)
	}
	var passed net.Error
	if err := request(t, connection); !errors.As(err, &passed) || !passed.Timeout() {
		t.Errorf("the deadline is not the one that was set: %v", err)
	}
	if n := len(b.logIns()); n != 2 {
		t.Errorf("logged in %d times", n)
	}
}

func TestWithoutATokenTheLogInGoesOnUntilItsEnd(t *testing.T) {
	b, source := startBroker(t, time.Minute), &tokens{token: "t"}
	_, connection, c := openSession(t, b, source)
	source.err = errors.New("the endpoint is away")
	c.Time = c.Add(59 * time.Second)
	if err := request(t, connection); err != nil {
		t.Errorf("within the log-in: %v", err)
	}
	c.Time = c.Add(2 * time.Second)
	if err := request(t, connection); err == nil || !strings.Contains(err.Error(), "the endpoint is away") {
		t.Errorf("after it: %v", err)
	}
}

func TestARefusedRenewalEndsTheConnection(t *testing.T) {
	b := startBroker(t, time.Minute)
	_, connection, c := openSession(t, b, &tokens{token: "t"})
	b.mutex.Lock()
	b.challenges["n,,\x01auth=Bearer t\x01\x01"] = `{"status":"invalid_token"}`
	b.mutex.Unlock()
	c.Time = c.Add(59 * time.Second)
	if err := request(t, connection); err == nil || !strings.Contains(err.Error(), "invalid_token") {
		t.Errorf("got %v", err)
	}
}

// TestARenewalWaitsForAnswers: one within another's answer would take its bytes.
func TestARenewalWaitsForAnswers(t *testing.T) {
	b := startBroker(t, time.Minute)
	s, _, c := openSession(t, b, &tokens{token: "t"})
	frame := func(id byte) []byte { // ApiVersions v0 without a client id
		return []byte{0, 0, 0, 10, 0, 18, 0, 0, 0, 0, 0, id, 0xff, 0xff}
	}
	answer := func() {
		t.Helper()
		head := make([]byte, 4)
		for n := 0; n < len(head); n++ { // byte by byte, as a network may have it
			if _, err := s.Read(head[n : n+1]); err != nil {
				t.Fatal(err)
			}
		}
		body := make([]byte, binary.BigEndian.Uint32(head))
		for n := 0; n < len(body); {
			m, err := s.Read(body[n:])
			if err != nil {
				t.Fatal(err)
			}
			n += m
		}
	}
	write := func(p []byte) {
		t.Helper()
		if _, err := s.Write(p); err != nil {
			t.Fatal(err)
		}
	}
	write(frame(1)[:6])
	c.Time = c.Add(time.Hour)
	write(frame(1)[6:]) // not within a request
	write(frame(2))     // nor before the first is answered
	answer()
	write(frame(3)) // nor before the second is
	answer()
	answer()
	if n := len(b.logIns()); n != 1 {
		t.Errorf("logged in %d times", n)
	}
	write(frame(4))
	answer()
	if n := len(b.logIns()); n != 2 {
		t.Errorf("logged in %d times", n)
	}
}

func TestFramesAreCountedHoweverTheyAreCut(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		sizes := rapid.SliceOfN(rapid.IntRange(0, 20), 1, 20).Draw(t, "sizes")
		var stream []byte
		for _, size := range sizes {
			stream = binary.BigEndian.AppendUint32(stream, uint32(size))
			stream = append(stream, make([]byte, size)...)
		}
		var f frames
		began, ended := 0, 0
		for len(stream) > 0 {
			n := rapid.IntRange(1, len(stream)).Draw(t, "cut")
			b, e := f.pass(stream[:n])
			began, ended, stream = began+b, ended+e, stream[n:]
			if f.between() != (began == ended) {
				t.Fatalf("%d began, %d ended, between: %t", began, ended, f.between())
			}
		}
		if began != len(sizes) || ended != len(sizes) {
			t.Fatalf("%d began, %d ended of %d", began, ended, len(sizes))
		}
	})
}
