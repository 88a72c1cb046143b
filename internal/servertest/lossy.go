package servertest

import (
	"context"
	"encoding/binary"
	"io"
	"net"
	"sync/atomic"
	"testing"
	"time"

	kafkago "github.com/segmentio/kafka-go"

	"tollgate/internal/kafka"
)

// Lossy is a Kafka whose answers can be lost: the broker does what it was asked, and nobody learns of it.
type Lossy struct {
	Broker kafka.Broker
	key    atomic.Int32 // of the requests whose answers are lost
	left   atomic.Int32 // how many still
	// Dialed is how many connections were made.
	Dialed atomic.Int32
}

// NewLossy is the Kafka at an address, over connections of its own.
func NewLossy(t testing.TB, addr string) *Lossy {
	t.Helper()
	l := &Lossy{}
	transport := &kafkago.Transport{MetadataTTL: time.Second, Dial: func(ctx context.Context, network, address string) (net.Conn, error) {
		connection, err := (&net.Dialer{}).DialContext(ctx, network, address)
		l.Dialed.Add(1)
		return &lossyConnection{Conn: connection, lossy: l}, err
	}}
	t.Cleanup(transport.CloseIdleConnections)
	l.Broker = kafka.NewBroker([]string{addr}, transport)
	return l
}

// Lose loses the answers to the next requests with an API key (kmsg's).
func (l *Lossy) Lose(key int16, answers int) {
	l.key.Store(int32(key))
	l.left.Store(int32(answers))
}

// Left is how many answers are still to be lost.
func (l *Lossy) Left() int { return int(l.left.Load()) }

type lossyConnection struct {
	net.Conn
	lossy *Lossy
	lose  atomic.Bool
}

func (c *lossyConnection) Write(request []byte) (int, error) {
	const keyAt = 4 // behind the length
	if len(request) > keyAt+2 && int32(binary.BigEndian.Uint16(request[keyAt:])) == c.lossy.key.Load() && c.lossy.left.Load() > 0 {
		c.lossy.left.Add(-1)
		c.lose.Store(true)
	}
	return c.Conn.Write(request)
}

func (c *lossyConnection) Read(into []byte) (int, error) {
	n, err := c.Conn.Read(into) // the broker has answered by then
	if err == nil && c.lose.Load() {
		_ = c.Close()
		return 0, io.ErrUnexpectedEOF
	}
	return n, err
}
