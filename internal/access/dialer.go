// Package access opens connections to servers that do not let everybody in: TLS with
// certificates that are read again once their files change, and SASL as Kafka has it,
// with a log-in that is renewed while the connection is open.
//
// kafka-go can do TLS and SASL, too, but keeps the certificates that it was given, never
// renews a log-in (its pull request 492), and drops what the broker says about one that
// failed. So it is given connections on which all that has been done: Dialer.DialContext
// is its Transport's Dial and its Dialer's DialFunc.
package access

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"time"

	"github.com/segmentio/kafka-go/sasl"
)

// Dialer opens connections to a server.
type Dialer struct {
	Timeout      time.Duration  // of a connection, all told
	Certificates *Certificates  // nil: not encrypted
	Mechanism    sasl.Mechanism // of a Kafka; nil: nobody logs in
	ClientID     string         // told to Kafka while logging in
}

// DialContext opens a connection to host:port, encrypts it and logs in, as the dialer says.
func (d *Dialer) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, d.Timeout)
	defer cancel()
	connection, err := new(net.Dialer).DialContext(ctx, network, address)
	if err != nil {
		return nil, err
	}
	if secured, err := d.secure(ctx, connection, address); err == nil {
		return secured, nil
	} else {
		_ = connection.Close()
		return nil, fmt.Errorf("%s: %w", address, err)
	}
}

func (d *Dialer) secure(ctx context.Context, connection net.Conn, address string) (net.Conn, error) {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	if d.Certificates != nil {
		config := d.Certificates.Config()
		config.ServerName = host
		encrypted := tls.Client(connection, config)
		if err := encrypted.HandshakeContext(ctx); err != nil {
			return nil, err
		}
		connection = encrypted
	}
	if d.Mechanism == nil {
		return connection, nil
	}
	return logIn(ctx, connection, d, host, port)
}
