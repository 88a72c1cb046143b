package access

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"io"
	"log/slog"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// authority signs certificates for 127.0.0.1.
type authority struct {
	certificate *x509.Certificate
	key         *ecdsa.PrivateKey
	pem         string
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	a := &authority{}
	der, key := sign(t, &x509.Certificate{IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign, Subject: pkix.Name{CommonName: "authority"}}, nil)
	a.key, a.pem = key, block("CERTIFICATE", der)
	var err error
	if a.certificate, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	return a
}

// issue makes a certificate and its key.
func (a *authority) issue(t *testing.T, name string) (cert, key string) {
	t.Helper()
	der, private := sign(t, &x509.Certificate{
		Subject: pkix.Name{CommonName: name}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}, a)
	encoded, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	return block("CERTIFICATE", der), block("PRIVATE KEY", encoded)
}

func sign(t *testing.T, template *x509.Certificate, by *authority) (der []byte, key *ecdsa.PrivateKey) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template.SerialNumber, _ = rand.Int(rand.Reader, big.NewInt(1<<62))
	template.NotBefore, template.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	parent, signer := template, key
	if by != nil {
		parent, signer = by.certificate, by.key
	}
	if der, err = x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, signer); err != nil {
		t.Fatal(err)
	}
	return der, key
}

func block(kind string, der []byte) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}))
}

// server says to each client that it lets in whom it takes it for.
type server struct {
	addr   string
	mutex  sync.Mutex
	config *tls.Config
}

func startServer(t *testing.T) *server {
	t.Helper()
	s := &server{config: &tls.Config{}}
	listener, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) {
		s.mutex.Lock()
		defer s.mutex.Unlock()
		return s.config, nil
	}})
	if err != nil {
		t.Fatal(err)
	}
	s.addr = listener.Addr().String()
	var serving sync.WaitGroup
	serving.Go(func() {
		for {
			connection, err := listener.Accept()
			if err != nil {
				return
			}
			encrypted := connection.(*tls.Conn)
			_ = encrypted.SetDeadline(time.Now().Add(timeout))
			if encrypted.Handshake() == nil {
				name := "nobody"
				if seen := encrypted.ConnectionState().PeerCertificates; len(seen) > 0 {
					name = seen[0].Subject.CommonName
				}
				_, _ = io.WriteString(encrypted, name)
			}
			_ = encrypted.Close()
		}
	})
	t.Cleanup(func() {
		_ = listener.Close()
		serving.Wait()
	})
	return s
}

// be has the server show a certificate of an authority, and want one of it.
func (s *server) be(t *testing.T, a *authority) {
	t.Helper()
	cert, key := a.issue(t, "server")
	pair, err := tls.X509KeyPair([]byte(cert), []byte(key))
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(a.certificate)
	s.mutex.Lock()
	defer s.mutex.Unlock()
	s.config = &tls.Config{Certificates: []tls.Certificate{pair}, ClientCAs: pool, ClientAuth: tls.RequireAndVerifyClientCert}
}

// client is a Dialer with files that can be replaced, and a clock that only the test moves.
type client struct {
	*Dialer
	files Files
	log   bytes.Buffer
	clock clock
}

func newClient(t *testing.T, a *authority, name string) *client {
	t.Helper()
	folder := t.TempDir()
	c := &client{files: Files{filepath.Join(folder, "ca"), filepath.Join(folder, "cert"), filepath.Join(folder, "key")}}
	c.replace(t, a, name)
	certificates, failures := ReadCertificates(c.files, slog.New(slog.NewTextHandler(&c.log, nil)))
	if len(failures) > 0 {
		t.Fatal(failures)
	}
	c.clock = clock{certificates.looked}
	certificates.now = c.clock.now
	c.Dialer = &Dialer{Timeout: timeout, Certificates: certificates}
	return c
}

func (c *client) replace(t *testing.T, a *authority, name string) {
	t.Helper()
	cert, key := a.issue(t, name)
	for file, text := range map[string]string{c.files.CA: a.pem, c.files.Cert: cert, c.files.Key: key} {
		write(t, file, text)
	}
}

// known connects and returns whom the server takes the client for.
func (c *client) known(t *testing.T, addr string) (string, error) {
	t.Helper()
	connection, err := c.DialContext(t.Context(), "tcp", addr)
	if err != nil {
		return "", err
	}
	defer connection.Close()
	name, err := io.ReadAll(connection)
	return string(name), err
}

func (c *client) mustBeKnownAs(t *testing.T, addr, want string) {
	t.Helper()
	if name, err := c.known(t, addr); err != nil || name != want {
		t.Errorf("known as %q, %v", name, err)
	}
}

func (c *client) later() { c.clock.Time = c.clock.Add(lookEvery) }

func mustNotBeTrusted(t *testing.T, err error) {
	t.Helper()
	if unknown := (x509.UnknownAuthorityError{}); !errors.As(err, &unknown) {
		t.Errorf("an unknown authority: %v", err)
	}
}

func TestCertificatesThatChangeCountForNewConnections(t *testing.T) {
	before, after, s := newAuthority(t), newAuthority(t), startServer(t)
	s.be(t, before)
	c := newClient(t, before, "old")
	c.mustBeKnownAs(t, s.addr, "old")
	s.be(t, after)
	_, err := c.known(t, s.addr)
	mustNotBeTrusted(t, err)

	c.replace(t, after, "new")
	_, err = c.known(t, s.addr) // the files were looked at just now
	mustNotBeTrusted(t, err)
	c.later()
	c.mustBeKnownAs(t, s.addr, "new")
	if !strings.Contains(c.log.String(), "level=INFO") || strings.Count(c.log.String(), "\n") != 1 {
		t.Errorf("the log has %s", &c.log)
	}
	s.be(t, before) // trusted no more
	_, err = c.known(t, s.addr)
	mustNotBeTrusted(t, err)
}

// TestTheHostMustBeTheCertificates: also after the certificates have changed.
func TestTheHostMustBeTheCertificates(t *testing.T) {
	before, after, s := newAuthority(t), newAuthority(t), startServer(t)
	s.be(t, before)
	c := newClient(t, before, "client")
	elsewhere := net.JoinHostPort("localhost", s.addr[strings.LastIndex(s.addr, ":")+1:])
	refused := func() {
		t.Helper()
		_, err := c.known(t, elsewhere)
		if wrong := (x509.HostnameError{}); !errors.As(err, &wrong) {
			t.Errorf("another host: %v", err)
		}
		c.mustBeKnownAs(t, s.addr, "client")
	}
	refused()
	s.be(t, after)
	c.replace(t, after, "client")
	c.later()
	refused()
}

func TestFilesOfNoUseLeaveThoseBeforeInForce(t *testing.T) {
	a, s := newAuthority(t), startServer(t)
	s.be(t, a)
	c := newClient(t, a, "client")
	cert, key := a.issue(t, "next")
	warnings := 0
	for _, step := range []struct{ file, text string }{
		{c.files.CA, "nonsense"}, {c.files.CA, "other nonsense"}, {c.files.CA, ""}, {c.files.CA, a.pem},
		{c.files.Cert, cert}, // of another key
	} {
		write(t, step.file, step.text)
		if step.text != a.pem {
			warnings++
		}
		for range 3 { // warned of once
			c.later()
			c.mustBeKnownAs(t, s.addr, "client")
		}
	}
	if err := os.Remove(c.files.Key); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		c.later()
		c.mustBeKnownAs(t, s.addr, "client")
	}
	warnings++
	if got := strings.Count(c.log.String(), "level=WARN"); got != warnings {
		t.Errorf("%d warnings, not %d:\n%s", got, warnings, &c.log)
	}
	write(t, c.files.Key, key)
	c.later()
	c.mustBeKnownAs(t, s.addr, "next")
}

func TestFilesOfNoUseAreNamedAtOnce(t *testing.T) {
	a, folder := newAuthority(t), t.TempDir()
	cert, _ := a.issue(t, "one")
	_, key := a.issue(t, "other")
	file := func(name, text string) string {
		path := filepath.Join(folder, name)
		write(t, path, text)
		return path
	}
	good, wrong, missing := Files{file("ca", a.pem), file("cert", cert), file("key", key)}, file("wrong", "nonsense"), filepath.Join(folder, "missing")
	for want, files := range map[string]Files{
		"tls-cert: " + good.Cert + " and " + good.Key + ": ": good,
		"tls-ca: " + wrong + " holds no certificate":         {CA: wrong},
		"tls-ca: open " + missing:                            {CA: missing},
		"tls-key: open " + missing:                           {Cert: good.Cert, Key: missing},
	} {
		if _, failures := ReadCertificates(files, slog.New(slog.DiscardHandler)); len(failures) != 1 || !strings.HasPrefix(failures[0].Error(), want) {
			t.Errorf("got %v, not %q", failures, want)
		}
	}
}
