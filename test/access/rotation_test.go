//go:build real

package access

import (
	"context"
	"os"
	"path/filepath"
	"testing"

	"github.com/segmentio/kafka-go"

	"tollgate/internal/proctest"
	"tollgate/internal/realtest"
	"tollgate/internal/servertest"
)

const (
	unknownAuthority = "certificate signed by unknown authority"
	changed          = "the TLS files have changed; new connections go by them"
)

// mounted are the files of a user, which can be replaced.
type mounted struct{ ca, cert, key string }

func mount(t *testing.T, ca *authority, p pair) mounted {
	t.Helper()
	folder := t.TempDir()
	m := mounted{filepath.Join(folder, "ca.crt"), filepath.Join(folder, "tls.crt"), filepath.Join(folder, "tls.key")}
	m.replace(t, ca, p)
	return m
}

func (m mounted) replace(t *testing.T, ca *authority, p pair) {
	t.Helper()
	replace(t, ca.file, m.ca)
	replace(t, p.cert, m.cert)
	replace(t, p.key, m.key)
}

func replace(t *testing.T, from, to string) {
	t.Helper()
	text, err := os.ReadFile(from)
	if err != nil {
		t.Fatal(err)
	}
	write(t, to, string(text))
}

// TestCertificatesOfKafkaChange: another authority for both sides, under a running worker.
func TestCertificatesOfKafkaChange(t *testing.T) {
	s := startSecuredKafka(t, listener{protocol: "SSL", clientAuth: "required"})
	s.allow(t, s.principal(true), s.acls()...)
	before, after := &authority{file: s.ca}, newAuthority(t)
	files := mount(t, before, s.client)
	worker, httpAddr := s.test.StartReady(t, "--kafka-tls", "--kafka-tls-ca", files.ca,
		"--kafka-tls-cert", files.cert, "--kafka-tls-key", files.key)
	decides(t, s.test)
	s.kafka.Kill(t)
	replace(t, after.issue(t, "broker").both, s.server.both)
	replace(t, after.file, s.ca) // the broker's trust store, too
	s.kafka.Start(t)
	s.test.Broker.Client.Transport.(*kafka.Transport).CloseIdleConnections() // the test's own, to the Kafka before
	worker.AwaitOutput(t, unknownAuthority)
	files.replace(t, after, after.issue(t, user))
	worker.AwaitOutput(t, changed)
	decides(t, s.test)
	worker.AwaitReady(t, httpAddr)
	if code := worker.Stop(t); code != 0 {
		t.Errorf("exit code %d\n%s", code, worker.Output())
	}
}

// TestCertificatesOfRedisChange is the same for Redis, which takes its own while it runs.
func TestCertificatesOfRedisChange(t *testing.T) {
	before, after := newAuthority(t), newAuthority(t)
	server := before.issue(t, "redis")
	secure := proctest.FreeAddr(t)
	r := realtest.StartRedis(t, "--tls-port", realtest.Port(secure), "--tls-cert-file", server.cert, "--tls-key-file", server.key, "--tls-ca-cert-file", before.file)
	k := realtest.StartKafka(t, realtest.KafkaOptions{})
	files := mount(t, before, before.issue(t, user))
	d := proctest.NewDeploymentOn(t, servertest.BrokerAt(t, k.Addr), "--redis-addrs", secure, "--redis-tls", "--redis-tls-ca", files.ca,
		"--redis-tls-cert", files.cert, "--redis-tls-key", files.key)
	worker, httpAddr := d.StartReady(t)
	decides(t, d)
	server = after.issue(t, "redis")
	for _, command := range [][]any{
		{"CONFIG", "SET", "tls-cert-file", server.cert, "tls-key-file", server.key, "tls-ca-cert-file", after.file},
		{"CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"},
	} {
		if err := r.Client.Do(context.Background(), command...).Err(); err != nil {
			t.Fatal(err)
		}
	}
	answered := make(chan struct{})
	go func() {
		defer close(answered)
		decides(t, d)
	}()
	worker.AwaitOutput(t, unknownAuthority)
	files.replace(t, after, after.issue(t, user))
	worker.AwaitOutput(t, changed)
	<-answered
	worker.AwaitReady(t, httpAddr)
	if code := worker.Stop(t); code != 0 {
		t.Errorf("exit code %d\n%s", code, worker.Output())
	}
}
