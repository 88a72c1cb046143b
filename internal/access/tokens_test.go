package access

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestATokenFileIsReadEachTime(t *testing.T) {
	file := filepath.Join(t.TempDir(), "token")
	source := TokenFile(file)
	if _, err := source.Token(t.Context()); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("got %v", err)
	}
	for _, text := range []string{"one", "two\n"} {
		write(t, file, text)
		if token, err := source.Token(t.Context()); err != nil || token != strings.TrimSpace(text) {
			t.Errorf("%q %v", token, err)
		}
	}
	for _, text := range []string{"", "\n", "a secret with blanks"} {
		write(t, file, text)
		if _, err := source.Token(t.Context()); err == nil || !strings.Contains(err.Error(), file) || strings.Contains(err.Error(), "secret") {
			t.Errorf("%q: %v", text, err)
		}
	}
}

func write(t *testing.T, file, text string) {
	t.Helper()
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// endpoint is an OAuth endpoint that gives out numbered tokens.
type endpoint struct {
	*httptest.Server
	asked  []url.Values
	secret string
	answer func(n int) (status int, body string)
}

func startEndpoint(t *testing.T, answer func(n int) (int, string)) *endpoint {
	e := &endpoint{answer: answer, secret: "first secret"}
	e.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		id, secret, _ := r.BasicAuth()
		if err := r.ParseForm(); err != nil || id != "tollgate" || secret != url.QueryEscape(e.secret) {
			w.WriteHeader(http.StatusUnauthorized)
			fmt.Fprintf(w, `{"error":"invalid_client","error_description":"unknown client","was":%q}`, secret)
			return
		}
		e.asked = append(e.asked, r.PostForm)
		status, body := e.answer(len(e.asked))
		w.WriteHeader(status)
		fmt.Fprint(w, body)
	}))
	t.Cleanup(e.Close)
	return e
}

func (e *endpoint) source(secret string) *ClientCredentials {
	return NewClientCredentials(ClientCredentialsOptions{
		TokenURL: e.URL, ClientID: "tollgate", ClientSecret: func() (string, error) { return secret, nil },
		Scopes: []string{"kafka", "more"}, Parameters: url.Values{"audience": {"brokers"}}, Timeout: timeout,
	})
}

func lasting(seconds int) func(int) (int, string) {
	return func(n int) (int, string) {
		return http.StatusOK, fmt.Sprintf(`{"access_token":"token-%d","token_type":"Bearer","expires_in":%d}`, n, seconds)
	}
}

func TestClientCredentialsAreAskedForAndKept(t *testing.T) {
	e := startEndpoint(t, lasting(3600))
	source := e.source("first secret")
	for range 3 {
		if token, err := source.Token(t.Context()); err != nil || token != "token-1" {
			t.Fatalf("%q %v", token, err)
		}
	}
	want := url.Values{"grant_type": {"client_credentials"}, "scope": {"kafka more"}, "audience": {"brokers"}}
	if len(e.asked) != 1 || e.asked[0].Encode() != want.Encode() {
		t.Errorf("asked %v", e.asked)
	}
	// A fifth of its life before its end there is a new one.
	if left := time.Until(source.renew); left > 2880*time.Second || left < 2870*time.Second {
		t.Errorf("renewed in %v", left)
	}
	source.renew = time.Now()
	if token, err := source.Token(t.Context()); err != nil || token != "token-2" {
		t.Errorf("%q %v", token, err)
	}
	// While the endpoint fails, what is valid does.
	e.answer = func(int) (int, string) { return http.StatusServiceUnavailable, "away" }
	source.renew = time.Now()
	if token, err := source.Token(t.Context()); err != nil || token != "token-2" {
		t.Errorf("%q %v", token, err)
	}
	source.expires = time.Now()
	if token, err := source.Token(t.Context()); err == nil || !strings.Contains(err.Error(), "503") || !strings.Contains(err.Error(), e.URL) {
		t.Errorf("%q %v", token, err)
	}
}

func TestATokenWithoutItsLifetimeIsKeptByWhatItSays(t *testing.T) {
	token := jwt(fmt.Sprintf(`{"exp":%d}`, time.Now().Add(time.Hour).Unix()))
	e := startEndpoint(t, func(n int) (int, string) {
		if n < 2 {
			return http.StatusOK, fmt.Sprintf(`{"access_token":%q,"token_type":"Bearer"}`, token)
		}
		return http.StatusOK, `{"access_token":"opaque","token_type":"Bearer"}`
	})
	source := e.source("first secret")
	for range 2 {
		if got, err := source.Token(t.Context()); err != nil || got != token {
			t.Fatalf("%q %v", got, err)
		}
	}
	if len(e.asked) != 1 {
		t.Errorf("asked %d times", len(e.asked))
	}
	source.renew = time.Now()
	for range 2 { // nothing is known of this one: it is not kept
		if got, err := source.Token(t.Context()); err != nil || got != "opaque" {
			t.Fatalf("%q %v", got, err)
		}
	}
	if len(e.asked) != 3 {
		t.Errorf("asked %d times", len(e.asked))
	}
}

func TestARefusedClientIsToldWithoutItsSecret(t *testing.T) {
	e := startEndpoint(t, lasting(3600))
	_, err := e.source("wrong secret").Token(t.Context())
	if err == nil || !strings.Contains(err.Error(), "401 Unauthorized: invalid_client: unknown client") || strings.Contains(err.Error(), "wrong") {
		t.Errorf("got %v", err)
	}
}

func TestTheSecretIsReadForEachToken(t *testing.T) {
	e := startEndpoint(t, lasting(3600))
	secret := "first secret"
	source := e.source("")
	source.options.ClientSecret = func() (string, error) { return secret, nil }
	if _, err := source.Token(t.Context()); err != nil {
		t.Fatal(err)
	}
	e.secret, secret, source.renew = "second secret", "second secret", time.Now()
	if token, err := source.Token(t.Context()); err != nil || token != "token-2" {
		t.Errorf("%q %v", token, err)
	}
}

func TestWaitingForATokenEndsWithTheContext(t *testing.T) {
	source := NewClientCredentials(ClientCredentialsOptions{TokenURL: "https://user:secret@login.example/"})
	source.turn <- struct{}{}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := source.Token(ctx); !errors.Is(err, context.Canceled) || strings.Contains(err.Error(), "secret") {
		t.Errorf("got %v", err)
	}
}

// TestAnMSKTokenIsASignedRequest holds the token against what AWS documents of it
// (aws-msk-iam-auth, "Details"; Signature Version 4, query parameters), signature and all.
func TestAnMSKTokenIsASignedRequest(t *testing.T) {
	const secretKey = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"
	missing := filepath.Join(t.TempDir(), "none")
	for name, value := range map[string]string{
		"AWS_ACCESS_KEY_ID": "AKIAIOSFODNN7EXAMPLE", "AWS_SECRET_ACCESS_KEY": secretKey, "AWS_SESSION_TOKEN": "session/token+=",
		"AWS_EC2_METADATA_DISABLED": "true", "AWS_CONFIG_FILE": missing, "AWS_SHARED_CREDENTIALS_FILE": missing, "AWS_PROFILE": "",
	} {
		t.Setenv(name, value)
	}
	source := &MSK{Region: "eu-west-1"}
	token, err := source.Token(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	text, err := base64.RawURLEncoding.DecodeString(token)
	if err != nil {
		t.Fatal(err)
	}
	signed, err := url.Parse(string(text))
	if err != nil {
		t.Fatal(err)
	}
	query := signed.Query()
	if signed.Scheme != "https" || signed.Host != "kafka.eu-west-1.amazonaws.com" || signed.Path != "/" {
		t.Errorf("got %s", signed)
	}
	moment, err := time.Parse("20060102T150405Z", query.Get("X-Amz-Date"))
	if err != nil || time.Since(moment).Abs() > time.Minute {
		t.Errorf("signed at %v %v", moment, err)
	}
	scope := moment.Format("20060102") + "/eu-west-1/kafka-cluster/aws4_request"
	for name, want := range map[string]string{
		"Action": "kafka-cluster:Connect", "X-Amz-Algorithm": "AWS4-HMAC-SHA256", "X-Amz-Credential": "AKIAIOSFODNN7EXAMPLE/" + scope,
		"X-Amz-Expires": "900", "X-Amz-SignedHeaders": "host", "X-Amz-Security-Token": "session/token+=",
	} {
		if got := query.Get(name); got != want {
			t.Errorf("%s is %q", name, got)
		}
	}
	signature := query.Get("X-Amz-Signature")
	query.Del("X-Amz-Signature")
	query.Del("User-Agent") // added once it is signed
	hash := func(text string) string { sum := sha256.Sum256([]byte(text)); return hex.EncodeToString(sum[:]) }
	canonical := "GET\n/\n" + strings.ReplaceAll(query.Encode(), "+", "%20") + "\nhost:" + signed.Host + "\n\nhost\n" + hash("")
	key := []byte("AWS4" + secretKey)
	for _, part := range append(strings.Split(scope, "/"), "AWS4-HMAC-SHA256\n"+query.Get("X-Amz-Date")+"\n"+scope+"\n"+hash(canonical)) {
		mac := hmac.New(sha256.New, key)
		mac.Write([]byte(part))
		key = mac.Sum(nil)
	}
	if want := hex.EncodeToString(key); signature != want {
		t.Errorf("the signature is %s, not %s", signature, want)
	}
	t.Setenv("AWS_ACCESS_KEY_ID", "AKIAOTHER") // the source of credentials is found once
	if again, err := source.Token(t.Context()); err != nil || !strings.Contains(decoded(t, again), "AKIAIOSFODNN7EXAMPLE") {
		t.Errorf("%v", err)
	}
	if _, _, err := (&OAuthBearer{Tokens: source}).Start(t.Context()); err != nil {
		t.Error(err)
	}
}

func decoded(t *testing.T, token string) string {
	t.Helper()
	text, err := base64.RawURLEncoding.DecodeString(token)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func TestWithoutAWSCredentialsTheyAreAskedFor(t *testing.T) {
	missing := filepath.Join(t.TempDir(), "none")
	for name, value := range map[string]string{
		"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": "", "AWS_EC2_METADATA_DISABLED": "true",
		"AWS_CONFIG_FILE": missing, "AWS_SHARED_CREDENTIALS_FILE": missing, "AWS_PROFILE": "",
	} {
		t.Setenv(name, value)
	}
	if _, err := (&MSK{Region: "eu-west-1"}).Token(t.Context()); err == nil || !strings.Contains(err.Error(), "credentials") {
		t.Errorf("got %v", err)
	}
}
