package access

import (
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/segmentio/kafka-go"
	"github.com/segmentio/kafka-go/sasl/plain"
)

// jwt is a token whose signature says nothing.
func jwt(claims string) string {
	encode := base64.RawURLEncoding.EncodeToString
	return encode([]byte(`{"alg":"RS256"}`)) + "." + encode([]byte(claims)) + ".c2VjcmV0"
}

func TestTheFirstMessageIsRFC7628s(t *testing.T) {
	mechanism := &OAuthBearer{Tokens: &tokens{token: "abc.def-_~+/=="}, Extensions: map[string]string{"zone": "b c", "cluster": "lkc-1"}}
	machine, message, err := mechanism.Start(t.Context())
	if err != nil || string(message) != "n,,\x01auth=Bearer abc.def-_~+/==\x01cluster=lkc-1\x01zone=b c\x01\x01" {
		t.Fatalf("%q %v", message, err)
	}
	if done, response, err := machine.Next(t.Context(), nil); !done || response != nil || err != nil {
		t.Errorf("%t %q %v", done, response, err)
	}
	for _, bad := range []string{"", "a b", "a\x01auth=Bearer b", "a\n"} {
		mechanism.Tokens = &tokens{token: bad}
		if _, message, err := mechanism.Start(t.Context()); err == nil {
			t.Errorf("token %q leads to %q", bad, message)
		}
	}
}

func TestATokenThatHasExpiredIsNotSent(t *testing.T) {
	for expiry, valid := range map[int64]bool{-10: false, 10: true} {
		mechanism := &OAuthBearer{Tokens: &tokens{token: jwt(fmt.Sprintf(`{"exp":%d}`, time.Now().Unix()+expiry))}}
		_, message, err := mechanism.Start(t.Context())
		if (err == nil) != valid || !valid && (message != nil || !strings.Contains(err.Error(), "the token expired 1")) {
			t.Errorf("%ds: %q %v", expiry, message, err)
		}
	}
}

func TestExtensionsAreThoseOfKIP342(t *testing.T) {
	for name, value := range map[string]string{"auth": "x", "a1": "x", "": "x", "a": "", "b": "x\x01auth=Bearer y", "c": "é"} {
		if CheckExtension(name, value) == nil {
			t.Errorf("%q=%q is taken", name, value)
		}
	}
	if err := CheckExtension("logicalCluster", "lkc-1 2"); err != nil {
		t.Error(err)
	}
}

// TestARefusedTokenIsExplained: the reason reaches the user, the exchange is ended as the RFC
// wants it, and the token stays secret.
func TestARefusedTokenIsExplained(t *testing.T) {
	b := startBroker(t, 0)
	hour := time.Now().Add(time.Hour).Unix()
	for token, wants := range map[string][]string{
		jwt(`{"sub":"worker","aud":["a","b"],"iss":"https://login"}`):                           {"invalid_token", `subject "worker"`, `audience ["a","b"]`, `issuer "https://login"`},
		jwt(fmt.Sprintf(`{"sub":"worker","aud":"other","iss":"https://login","exp":%d}`, hour)): {"invalid_token", `audience "other"`, "valid until"},
		"opaque": {"the broker refuses the token: invalid_token, it wants the scope kafka"},
	} {
		challenge := `{"status":"invalid_token"}`
		if token == "opaque" {
			challenge = `{"status":"invalid_token","scope":"kafka"}`
		}
		b.mutex.Lock()
		b.challenges["n,,\x01auth=Bearer "+token+"\x01\x01"], b.heard = challenge, nil
		b.mutex.Unlock()
		d := &Dialer{Timeout: timeout, Mechanism: &OAuthBearer{Tokens: &tokens{token: token}}, ClientID: "test"}
		_, err := d.DialContext(t.Context(), "tcp", b.addr)
		if !errors.Is(err, kafka.SASLAuthenticationFailed) {
			t.Fatalf("got %v", err)
		}
		for _, want := range append(wants, b.addr, "OAUTHBEARER") {
			if !strings.Contains(err.Error(), want) {
				t.Errorf("no %s in %v", want, err)
			}
		}
		if strings.Contains(err.Error(), "c2VjcmV0") || strings.Contains(err.Error(), "opaque") {
			t.Errorf("the token is in %v", err)
		}
		if heard := b.logIns(); len(heard) != 2 || heard[1] != "\x01" {
			t.Errorf("the broker heard %q", heard)
		}
	}
}

func TestWhatTheBrokerSaysIsPassedOn(t *testing.T) {
	b := startBroker(t, 0)
	b.refusal = "no such user"
	d := &Dialer{Timeout: timeout, Mechanism: &OAuthBearer{Tokens: &tokens{token: "t"}}, ClientID: "test"}
	if _, err := d.DialContext(t.Context(), "tcp", b.addr); !errors.Is(err, kafka.SASLAuthenticationFailed) || !strings.Contains(err.Error(), "no such user") {
		t.Errorf("got %v", err)
	}
	d.Mechanism = plain.Mechanism{Username: "u", Password: "secret"}
	if _, err := d.DialContext(t.Context(), "tcp", b.addr); !errors.Is(err, kafka.UnsupportedSASLMechanism) || !strings.Contains(err.Error(), "this listener has OAUTHBEARER") {
		t.Errorf("got %v", err)
	}
	d.Mechanism = &OAuthBearer{Tokens: &tokens{err: errors.New("the endpoint is away")}}
	if _, err := d.DialContext(t.Context(), "tcp", b.addr); err == nil || !strings.Contains(err.Error(), "the endpoint is away") {
		t.Errorf("got %v", err)
	}
}

// FuzzRefusal: whatever a broker sends, it is told in one bounded line, without the token.
func FuzzRefusal(f *testing.F) {
	for _, seed := range []string{`{"status":"invalid_token"}`, `{"status":1}`, `{`, "\x00\xff", `{"status":"a\nb","scope":"c"}`, `null`} {
		f.Add([]byte(seed), `{"exp":1e300,"aud":{}}`)
	}
	f.Fuzz(func(t *testing.T, challenge []byte, claims string) {
		done, response, err := bearing{jwt(claims)}.Next(t.Context(), challenge)
		if done != (len(challenge) == 0) || done != (err == nil) || done != (response == nil) {
			t.Fatalf("%t %q %v", done, response, err)
		}
		if err != nil && (strings.ContainsAny(err.Error(), "\r\n\x00") || len(err.Error()) > 4*maxReason || strings.Contains(err.Error(), "c2VjcmV0")) {
			t.Errorf("%d bytes: %q", len(err.Error()), err)
		}
	})
}
