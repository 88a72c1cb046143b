package access

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/segmentio/kafka-go"
	"github.com/segmentio/kafka-go/protocol"
	"github.com/segmentio/kafka-go/protocol/apiversions"
	"github.com/segmentio/kafka-go/protocol/saslauthenticate"
	"github.com/segmentio/kafka-go/protocol/saslhandshake"
	"github.com/segmentio/kafka-go/sasl"
)

// login is the logging in on one connection.
type login struct {
	connection *protocol.Conn
	mechanism  sasl.Mechanism
	metadata   *sasl.Metadata
}

// logIn logs in on a new connection. The one it returns renews the log-in where the
// broker wants that.
func logIn(ctx context.Context, connection net.Conn, d *Dialer, host, port string) (net.Conn, error) {
	number, err := strconv.Atoi(port)
	if err != nil {
		return nil, fmt.Errorf("port %q: %w", port, err)
	}
	deadline, _ := ctx.Deadline()
	if err := connection.SetDeadline(deadline); err != nil {
		return nil, err
	}
	stopInterrupting := context.AfterFunc(ctx, func() { _ = connection.SetDeadline(time.Unix(1, 0)) })
	defer stopInterrupting()
	l := &login{protocol.NewConn(connection, d.ClientID), d.Mechanism, &sasl.Metadata{Host: host, Port: number}}
	if err := l.negotiate(); err != nil {
		return nil, fmt.Errorf("ask for the versions of requests: %w", err)
	}
	lifetime, err := l.authenticate(ctx)
	if err != nil {
		return nil, fmt.Errorf("log in with SASL %s: %w", d.Mechanism.Name(), err)
	}
	if !stopInterrupting() {
		return nil, context.Cause(ctx)
	}
	if err := connection.SetDeadline(time.Time{}); err != nil {
		return nil, err
	}
	if lifetime == 0 {
		return connection, nil
	}
	return newSession(connection, lifetime, d.Timeout, l.authenticate), nil
}

// negotiate learns which versions of the requests the broker has.
func (l *login) negotiate() error {
	message, err := l.connection.RoundTrip(new(apiversions.Request))
	if err != nil {
		return err
	}
	response := message.(*apiversions.Response)
	if response.ErrorCode != 0 {
		return kafka.Error(response.ErrorCode)
	}
	versions := make(map[protocol.ApiKey]int16, len(response.ApiKeys))
	for _, api := range response.ApiKeys {
		key := protocol.ApiKey(api.ApiKey)
		versions[key] = key.SelectVersion(api.MinVersion, api.MaxVersion)
	}
	l.connection.SetVersions(versions)
	return nil
}

// unsaidError is why there is nothing to say to the broker. It has heard nothing yet.
type unsaidError struct{ error }

func (e unsaidError) Unwrap() error { return e.error }

// authenticate logs in, for the first time or again, and returns for how long: 0 where
// the broker sets no end.
func (l *login) authenticate(ctx context.Context) (time.Duration, error) {
	machine, message, err := l.mechanism.Start(sasl.WithMetadata(ctx, l.metadata))
	if err != nil {
		return 0, unsaidError{err}
	}
	if err := l.handshake(); err != nil {
		return 0, err
	}
	for {
		challenge, lifetime, err := l.exchange(message)
		if err != nil {
			return 0, err
		}
		var done bool
		done, message, err = machine.Next(ctx, challenge)
		if err != nil {
			// A message beside an error is the mechanism's way to end the exchange (RFC 7628,
			// section 3.2.3): it lets the broker count and log that somebody was refused.
			if message != nil {
				_, _, _ = l.exchange(message)
			}
			return 0, err
		}
		if done {
			return lifetime, nil
		}
	}
}

func (l *login) handshake() error {
	message, err := l.connection.RoundTrip(&saslhandshake.Request{Mechanism: l.mechanism.Name()})
	if err != nil {
		return err
	}
	response := message.(*saslhandshake.Response)
	if response.ErrorCode == 0 {
		return nil
	}
	err = kafka.Error(response.ErrorCode)
	if errors.Is(err, kafka.UnsupportedSASLMechanism) && len(response.Mechanisms) > 0 {
		slices.Sort(response.Mechanisms)
		return fmt.Errorf("%w; this listener has %s", err, strings.Join(response.Mechanisms, ", "))
	}
	return err
}

// exchange sends a message of the mechanism's and waits for the answer.
func (l *login) exchange(data []byte) (challenge []byte, lifetime time.Duration, err error) {
	message, err := l.connection.RoundTrip(&saslauthenticate.Request{AuthBytes: data})
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		// Some say no by hanging up.
		return nil, 0, fmt.Errorf("%w: the broker has closed the connection", kafka.SASLAuthenticationFailed)
	}
	if err != nil {
		return nil, 0, err
	}
	response := message.(*saslauthenticate.Response)
	if response.ErrorCode != 0 {
		err := error(kafka.Error(response.ErrorCode))
		if response.ErrorMessage != "" {
			err = fmt.Errorf("%w: %s", err, response.ErrorMessage)
		}
		return nil, 0, err
	}
	return response.AuthBytes, time.Duration(response.SessionLifetimeMs) * time.Millisecond, nil
}
