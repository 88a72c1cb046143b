//go:build real

package access

import (
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"math/big"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"tollgate/internal/proctest"
	"tollgate/internal/realtest"
)

// issuer gives out tokens that a Kafka takes.
type issuer struct {
	key  *rsa.PrivateKey
	jwks string // file with the public key
}

const (
	issuerName = "https://login.test"
	audience   = "kafka"
)

func newIssuer(t *testing.T) *issuer {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	encode := base64.RawURLEncoding.EncodeToString
	set, err := json.Marshal(map[string]any{"keys": []any{map[string]string{
		"kty": "RSA", "kid": "test", "use": "sig", "alg": "RS256", "n": encode(key.N.Bytes()), "e": encode(big.NewInt(int64(key.E)).Bytes()),
	}}})
	if err != nil {
		t.Fatal(err)
	}
	i := &issuer{key, filepath.Join(t.TempDir(), "jwks.json")}
	write(t, i.jwks, string(set))
	return i
}

// token is one for a time from now on, in seconds.
func (i *issuer) token(t *testing.T, subject, audience string, seconds int) string {
	t.Helper()
	encode := base64.RawURLEncoding.EncodeToString
	now := time.Now().Unix()
	claims, err := json.Marshal(map[string]any{
		"iss": issuerName, "sub": subject, "aud": audience, "iat": now - 60, "exp": now + int64(seconds), "scope": "kafka",
	})
	if err != nil {
		t.Fatal(err)
	}
	signed := encode([]byte(`{"alg":"RS256","kid":"test","typ":"JWT"}`)) + "." + encode(claims)
	sum := sha256.Sum256([]byte(signed))
	signature, err := rsa.SignPKCS1v15(nil, i.key, crypto.SHA256, sum[:])
	if err != nil {
		t.Fatal(err)
	}
	return signed + "." + encode(signature)
}

// listener takes the issuer's tokens. A log-in lasts as long as the token.
func (i *issuer) listener() listener {
	return listener{
		protocol: "SASL_SSL", clientAuth: "none",
		properties: []string{
			"listener.name.workers.oauthbearer.sasl.server.callback.handler.class=org.apache.kafka.common.security.oauthbearer.OAuthBearerValidatorCallbackHandler",
			"listener.name.workers.oauthbearer.connections.max.reauth.ms=3600000",
			// Kafka 4.1.0's default is ClientJwtValidator in effect, which lets in tokens of any key, for any audience.
			"sasl.oauthbearer.jwt.validator.class=org.apache.kafka.common.security.oauthbearer.BrokerJwtValidator",
			"sasl.oauthbearer.jwks.endpoint.url=file://" + i.jwks,
			"sasl.oauthbearer.expected.audience=" + audience,
			"sasl.oauthbearer.expected.issuer=" + issuerName,
			"sasl.oauthbearer.clock.skew.seconds=0",
		},
		jvm: "-Dorg.apache.kafka.sasl.oauthbearer.allowed.urls=file://" + i.jwks,
	}
}

func write(t *testing.T, file, text string) {
	t.Helper()
	next := file + ".next"
	if err := os.WriteFile(next, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(next, file); err != nil { // at once, as Kubernetes does
		t.Fatal(err)
	}
}

func TestOAuthBearer(t *testing.T) {
	i := newIssuer(t)
	s := startSecuredKafka(t, i.listener())
	s.allow(t, s.principal(false), s.acls()...)
	connection := []string{"--kafka-tls", "--kafka-tls-ca", s.ca, "--kafka-sasl-mechanism", "OAUTHBEARER"}
	file := filepath.Join(t.TempDir(), "token")
	fromFile := append(connection, "--kafka-sasl-token-file", file, "--log-level", "debug")

	t.Run("a token that others renew", func(t *testing.T) {
		const seconds = 6
		var given []string
		renew := func() {
			given = append(given, i.token(t, user, audience, seconds))
			write(t, file, given[len(given)-1])
		}
		renew()
		worker, httpAddr := s.test.Start(t, fromFile...)
		worker.AwaitOutput(t, "msg=serving")
		realtest.Until(t, "the worker is ready", func() bool { // which may take longer than a token lasts
			renew()
			code, _ := proctest.Get(t, "http://"+httpAddr+"/readyz")
			return code == http.StatusOK
		})
		started := len(worker.Output())
		for began := time.Now(); time.Since(began) < 3*seconds*time.Second; renew() {
			decides(t, s.test)
		}
		smoothSince(t, worker, started)
		noSecrets(t, worker, given...)
		if code := worker.Stop(t); code != 0 {
			t.Errorf("exit code %d\n%s", code, worker.Output())
		}
	})
	t.Run("a token that expires and is renewed too late", func(t *testing.T) {
		write(t, file, i.token(t, user, audience, 20))
		worker, httpAddr := s.test.StartReady(t, fromFile...)
		worker.AwaitOutput(t, "the token expired")
		realtest.Until(t, "the worker is not ready", func() bool {
			code, body := proctest.Get(t, "http://"+httpAddr+"/readyz")
			return code == http.StatusServiceUnavailable && strings.Contains(string(body), "the token expired")
		})
		write(t, file, i.token(t, user, audience, 3600))
		decides(t, s.test)
		worker.AwaitReady(t, httpAddr)
		if code := worker.Stop(t); code != 0 {
			t.Errorf("exit code %d\n%s", code, worker.Output())
		}
	})
	for name, wrong := range map[string]struct{ token, says string }{
		"for another audience":  {i.token(t, user, "elsewhere", 3600), "elsewhere"},
		"of another issuer":     {newIssuer(t).token(t, user, audience, 3600), "valid until"},
		"that is none of Kafka": {"opaque", "the broker refuses the token: invalid_token"},
	} {
		t.Run("a token "+name, func(t *testing.T) {
			write(t, file, wrong.token)
			worker, _ := s.test.Start(t, fromFile...)
			worker.AwaitOutput(t, "the broker refuses the token: invalid_token")
			worker.AwaitOutput(t, wrong.says)
			noSecrets(t, worker, wrong.token)
			worker.Kill()
			out := proctest.Run(t, nil, "producer", append([]string{"check", "--kafka-brokers", s.workers, "-c", "acme", "-f", "messages", "--kafka-sasl-token-file", file}, connection...)...)
			if out.Code == 0 || !strings.Contains(out.Stderr, wrong.says) || strings.Contains(out.Stderr, wrong.token+"\n") {
				t.Errorf("exit code %d\n%s", out.Code, out.Stderr)
			}
		})
	}
	t.Run("tokens of an endpoint", func(t *testing.T) { endpointGivesTokens(t, s, i, connection) })
}

// smoothSince holds that the worker had nothing to complain of since its log was so long, nor
// lost its place in the group.
func smoothSince(t *testing.T, worker *proctest.Process, began int) {
	t.Helper()
	for line := range strings.Lines(worker.Output()[began:]) {
		if strings.Contains(line, "level=WARN") || strings.Contains(line, "joined group") {
			t.Errorf("it did not go smoothly: %s", line)
		}
	}
}

func endpointGivesTokens(t *testing.T, s *securedKafka, i *issuer, connection []string) {
	const seconds, clientSecret = 20, "client secret"
	var mutex sync.Mutex
	var given []string
	endpoint := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		if _, secret, _ := r.BasicAuth(); secret != "client+secret" || r.FormValue("audience") != audience || r.FormValue("scope") != "a b" {
			w.WriteHeader(http.StatusUnauthorized)
			fmt.Fprint(w, `{"error":"invalid_client","error_description":"no such client"}`)
			return
		}
		mutex.Lock()
		defer mutex.Unlock()
		given = append(given, i.token(t, user, audience, seconds))
		fmt.Fprintf(w, `{"access_token":%q,"token_type":"Bearer","expires_in":%d}`, given[len(given)-1], seconds)
	}))
	defer endpoint.Close()
	secretFile := filepath.Join(t.TempDir(), "secret")
	write(t, secretFile, clientSecret+"\n")
	flags := append(connection, "--kafka-sasl-oauth-token-url", endpoint.URL+"/token", "--kafka-sasl-oauth-client-id", "tollgate",
		"--kafka-sasl-oauth-client-secret-file", secretFile, "--kafka-sasl-oauth-scopes", "a,b", "--kafka-sasl-oauth-parameters", "audience="+audience,
		"--kafka-sasl-extensions", "cluster=one")
	worker, _ := s.test.StartReady(t, append(flags, "--log-level", "debug")...)
	started := len(worker.Output())
	for began := time.Now(); time.Since(began) < 3*seconds*time.Second/2; {
		decides(t, s.test)
	}
	mutex.Lock()
	tokens := given
	mutex.Unlock()
	if len(tokens) < 2 || len(tokens) > 6 {
		t.Errorf("asked for %d tokens", len(tokens))
	}
	smoothSince(t, worker, started)
	noSecrets(t, worker, append(tokens, clientSecret)...)
	if code := worker.Stop(t); code != 0 {
		t.Errorf("exit code %d\n%s", code, worker.Output())
	}
	write(t, secretFile, "wrong")
	worker, _ = s.test.Start(t, flags...)
	worker.AwaitOutput(t, "401 Unauthorized: invalid_client: no such client")
	worker.Kill()
}

// TestLogInsThatEnd: a broker closes connections whose log-in is too old (connections.max.reauth.ms)
// unless it is renewed. Members of the group must not lose theirs each time.
func TestLogInsThatEnd(t *testing.T) {
	const lifetime = 2 * time.Second
	s := startSecuredKafka(t, listener{protocol: "SASL_SSL", clientAuth: "none", properties: []string{
		fmt.Sprintf("connections.max.reauth.ms=%d", lifetime.Milliseconds()),
	}})
	s.allow(t, s.principal(false), s.acls()...)
	for mechanism, secret := range map[string]string{"plain": password, "scram-sha-512": "secret"} {
		worker, _ := s.test.StartReady(t, "--kafka-tls", "--kafka-tls-ca", s.ca,
			"--kafka-sasl-mechanism", mechanism, "--kafka-sasl-username", user, "--kafka-sasl-password", secret, "--log-level", "debug")
		started := len(worker.Output())
		for began := time.Now(); time.Since(began) < 6*lifetime; {
			decides(t, s.test)
		}
		smoothSince(t, worker, started)
		if code := worker.Stop(t); code != 0 {
			t.Errorf("%s: exit code %d\n%s", mechanism, code, worker.Output())
		}
	}
}
