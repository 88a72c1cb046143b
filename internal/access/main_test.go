package access

import (
	"context"
	"net"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/segmentio/kafka-go"
	"github.com/segmentio/kafka-go/protocol"
	"github.com/segmentio/kafka-go/protocol/apiversions"
	"github.com/segmentio/kafka-go/protocol/saslauthenticate"
	"github.com/segmentio/kafka-go/protocol/saslhandshake"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const timeout = 5 * time.Second

// broker is the part of a Kafka that logs clients in. test/access has the real one.
type broker struct {
	addr     string
	lifetime time.Duration // of a log-in

	mutex      sync.Mutex
	challenges map[string]string // what a first message is answered with, "" where it is none of these
	refusal    string            // text of an error in an answer
	heard      []string          // messages of the mechanism
	requests   int               // beside those for logging in
}

func startBroker(t *testing.T, lifetime time.Duration) *broker {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	b := &broker{addr: listener.Addr().String(), lifetime: lifetime, challenges: map[string]string{}}
	var serving sync.WaitGroup
	serving.Go(func() {
		for {
			connection, err := listener.Accept()
			if err != nil {
				return
			}
			serving.Go(func() { b.serve(connection) })
		}
	})
	t.Cleanup(func() {
		_ = listener.Close()
		serving.Wait()
	})
	return b
}

func (b *broker) serve(connection net.Conn) {
	defer connection.Close()
	for {
		version, id, _, request, err := protocol.ReadRequest(connection)
		if err != nil {
			return
		}
		if err := protocol.WriteResponse(connection, version, id, b.answer(request)); err != nil {
			return
		}
	}
}

func (b *broker) answer(request protocol.Message) protocol.Message {
	b.mutex.Lock()
	defer b.mutex.Unlock()
	switch request := request.(type) {
	case *saslhandshake.Request:
		if request.Mechanism != "OAUTHBEARER" {
			return &saslhandshake.Response{ErrorCode: int16(kafka.UnsupportedSASLMechanism), Mechanisms: []string{"OAUTHBEARER"}}
		}
		return &saslhandshake.Response{}
	case *saslauthenticate.Request:
		message := string(request.AuthBytes)
		b.heard = append(b.heard, message)
		if b.refusal != "" {
			return &saslauthenticate.Response{ErrorCode: int16(kafka.SASLAuthenticationFailed), ErrorMessage: b.refusal}
		}
		if message == "\x01" {
			return &saslauthenticate.Response{ErrorCode: int16(kafka.SASLAuthenticationFailed)}
		}
		return &saslauthenticate.Response{AuthBytes: []byte(b.challenges[message]), SessionLifetimeMs: b.lifetime.Milliseconds()}
	default:
		b.requests++
		response := &apiversions.Response{}
		for _, key := range []protocol.ApiKey{protocol.ApiVersions, protocol.SaslHandshake, protocol.SaslAuthenticate} {
			response.ApiKeys = append(response.ApiKeys, apiversions.ApiKeyResponse{ApiKey: int16(key), MaxVersion: 1})
		}
		return response
	}
}

func (b *broker) logIns() []string {
	b.mutex.Lock()
	defer b.mutex.Unlock()
	return slices.Clone(b.heard)
}

// tokens has the token that a test sets, or the error.
type tokens struct {
	token string
	err   error
}

func (s *tokens) Token(context.Context) (string, error) { return s.token, s.err }
