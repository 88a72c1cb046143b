package access

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"sync"
	"time"
)

// session is a connection whose log-in ends (connections.max.reauth.ms, KIP-368). A broker
// closes such a connection at the first request after the end, so the session logs in
// again before a request that comes late in its life. That needs no clock of its own: an
// idle connection may pass its end, and log in again before its next request.
//
// The log-in is an exchange of its own on the connection, so it has to wait until all
// requests are answered. kafka-go mostly has one request at a time on a connection; while
// there are several, the session tries again at the next one.
//
// Reads and Writes may be concurrent, but only one of each, as kafka-go has them.
type session struct {
	net.Conn
	authenticate func(context.Context) (time.Duration, error)
	timeout      time.Duration // of a log-in
	now          func() time.Time

	mutex      sync.Mutex
	due, end   time.Time // of the log-in: when to renew it, and when it ends
	requests   frames
	responses  frames
	unanswered int

	deadlines sync.Mutex
	renewing  bool
	read      time.Time
	write     time.Time
}

func newSession(connection net.Conn, lifetime, timeout time.Duration, authenticate func(context.Context) (time.Duration, error)) *session {
	s := &session{Conn: connection, authenticate: authenticate, timeout: timeout, now: time.Now}
	s.begin(lifetime)
	return s
}

// minRenewal is the shortest time after which Kafka lets a client log in again, and some more.
const minRenewal = 1100 * time.Millisecond

// begin notes that a log-in begins. Like Java's client it is renewed after 85 to 95 % of its
// life, so that many connections do not do so at once.
func (s *session) begin(lifetime time.Duration) {
	if lifetime == 0 {
		s.due, s.end = time.Time{}, time.Time{}
		return
	}
	now := s.now()
	s.end = now.Add(lifetime)
	s.due = now.Add(max(minRenewal, time.Duration((0.85+0.1*rand.Float64())*float64(lifetime))))
}

// Write writes a request, or a part of one.
func (s *session) Write(p []byte) (int, error) {
	s.mutex.Lock()
	if s.requests.between() && s.unanswered == 0 && !s.due.IsZero() && !s.now().Before(s.due) {
		if err := s.renew(); err != nil {
			s.mutex.Unlock()
			return 0, err
		}
	}
	// Counted before it is written: the answer may come before Write returns.
	began, _ := s.requests.pass(p)
	s.unanswered += began
	s.mutex.Unlock()
	return s.Conn.Write(p)
}

// Read reads a response, or a part of one.
func (s *session) Read(p []byte) (int, error) {
	n, err := s.Conn.Read(p)
	if n > 0 {
		s.mutex.Lock()
		_, ended := s.responses.pass(p[:n])
		s.unanswered -= ended
		s.mutex.Unlock()
	}
	return n, err
}

// renew logs in again. Where there is nothing to log in with just now, the log-in that
// there is goes on until its end.
func (s *session) renew() error {
	ctx, cancel := context.WithTimeout(context.Background(), s.timeout)
	defer cancel()
	s.setRenewing(true)
	lifetime, err := s.authenticate(ctx)
	s.setRenewing(false)
	now := s.now()
	if unsaid := (unsaidError{}); errors.As(err, &unsaid) && now.Before(s.end) {
		s.due = now.Add(max(time.Second, s.end.Sub(now)/4))
		return nil
	}
	if err != nil {
		return fmt.Errorf("renew the log-in at %s: %w", s.RemoteAddr(), err)
	}
	s.begin(lifetime)
	return nil
}

// setRenewing sets the deadlines of a log-in, and those that kafka-go has set once it is done.
func (s *session) setRenewing(renewing bool) {
	s.deadlines.Lock()
	defer s.deadlines.Unlock()
	s.renewing = renewing
	if renewing {
		_ = s.Conn.SetDeadline(time.Now().Add(s.timeout))
		return
	}
	_ = s.Conn.SetReadDeadline(s.read)
	_ = s.Conn.SetWriteDeadline(s.write)
}

// SetDeadline is part of net.Conn.
func (s *session) SetDeadline(t time.Time) error {
	return s.setDeadlines(func() { s.read, s.write = t, t })
}

// SetReadDeadline is part of net.Conn.
func (s *session) SetReadDeadline(t time.Time) error {
	return s.setDeadlines(func() { s.read = t })
}

// SetWriteDeadline is part of net.Conn.
func (s *session) SetWriteDeadline(t time.Time) error {
	return s.setDeadlines(func() { s.write = t })
}

func (s *session) setDeadlines(set func()) error {
	s.deadlines.Lock()
	defer s.deadlines.Unlock()
	set()
	if s.renewing {
		return nil // they count once the log-in is done
	}
	return errors.Join(s.Conn.SetReadDeadline(s.read), s.Conn.SetWriteDeadline(s.write))
}

// frames follows a stream of requests or responses: four bytes with a size, and then as
// many bytes.
type frames struct {
	head    [4]byte
	gotten  int   // of the head
	pending int64 // of the body, once the head is complete
}

// between says whether the stream is between two frames.
func (f *frames) between() bool { return f.gotten == 0 }

// pass takes the next bytes of the stream and returns how many frames begin and end in them.
func (f *frames) pass(p []byte) (began, ended int) {
	for len(p) > 0 {
		if f.gotten < len(f.head) {
			if f.gotten == 0 {
				began++
			}
			n := copy(f.head[f.gotten:], p)
			f.gotten, p = f.gotten+n, p[n:]
			if f.gotten == len(f.head) {
				f.pending = int64(binary.BigEndian.Uint32(f.head[:]))
			}
		} else {
			n := min(f.pending, int64(len(p)))
			f.pending, p = f.pending-n, p[n:]
		}
		if f.gotten == len(f.head) && f.pending == 0 {
			f.gotten = 0
			ended++
		}
	}
	return began, ended
}
