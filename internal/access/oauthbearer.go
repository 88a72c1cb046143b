package access

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"time"
	"unicode"

	"github.com/segmentio/kafka-go"
	"github.com/segmentio/kafka-go/sasl"
)

// TokenSource has the token to log in with.
type TokenSource interface {
	// Token returns a token that is valid now, as far as the source can tell. Its errors
	// never have the token or a secret.
	Token(context.Context) (string, error)
}

// OAuthBearer is SASL OAUTHBEARER (RFC 7628, KIP-255). It asks for a token whenever a
// connection logs in.
type OAuthBearer struct {
	Tokens     TokenSource
	Extensions map[string]string // further names and values for the broker (KIP-342)
}

var _ sasl.Mechanism = (*OAuthBearer)(nil)

// Name is part of sasl.Mechanism.
func (*OAuthBearer) Name() string { return "OAUTHBEARER" }

// Start is part of sasl.Mechanism.
func (o *OAuthBearer) Start(ctx context.Context) (sasl.StateMachine, []byte, error) {
	token, err := o.Tokens.Token(ctx)
	if err != nil {
		return nil, nil, err
	}
	if !bearerToken.MatchString(token) {
		return nil, nil, errors.New("the token is empty or has characters that no token has")
	}
	if err := expired(token, time.Now()); err != nil {
		return nil, nil, err
	}
	message := []byte("n,,\x01auth=Bearer " + token + "\x01")
	for _, name := range slices.Sorted(maps.Keys(o.Extensions)) {
		message = append(message, name+"="+o.Extensions[name]+"\x01"...)
	}
	return bearing{token}, append(message, '\x01'), nil
}

// expired says that a token is no longer valid, if that can be told. Brokers let one in for some
// 30 seconds more (sasl.oauthbearer.clock.skew.seconds), but where log-ins end with their token
// they close the connection at its first request, and do not say why.
func expired(token string, now time.Time) error {
	claims, ok := claimsOf(token)
	if expiry := claims.expiry(); ok && !expiry.IsZero() && !expiry.After(now) {
		return fmt.Errorf("the token expired %v ago, at %s", now.Sub(expiry).Round(time.Second), expiry.UTC().Format(time.RFC3339))
	}
	return nil
}

// What RFC 6750 and KIP-342 allow.
var (
	bearerToken    = regexp.MustCompile(`^[A-Za-z0-9._~+/-]+=*$`)
	extensionName  = regexp.MustCompile(`^[A-Za-z]+$`)
	extensionValue = regexp.MustCompile(`^[\x20-\x7e\t\r\n]+$`)
)

// CheckExtension says what is wrong with an extension, nil where nothing is.
func CheckExtension(name, value string) error {
	switch {
	case !extensionName.MatchString(name) || name == "auth":
		return fmt.Errorf("the name %q must have letters only, and not be auth", name)
	case !extensionValue.MatchString(value):
		return fmt.Errorf("the value of %s must have printable ASCII characters only, and one at least", name)
	}
	return nil
}

// bearing is the exchange after the first message.
type bearing struct{ token string }

// Next is part of sasl.StateMachine. A broker that refuses the token says why in a
// challenge, waits for a message of one byte, and then ends the exchange.
func (b bearing) Next(_ context.Context, challenge []byte) (done bool, response []byte, err error) {
	if len(challenge) == 0 {
		return true, nil, nil
	}
	return false, []byte{1}, fmt.Errorf("%w: the broker refuses the token: %s%s",
		kafka.SASLAuthenticationFailed, inOneLine(reason(challenge)), inOneLine(aboutToken(b.token)))
}

const maxReason = 300 // bytes

// inOneLine makes a text fit for a log, whoever wrote it.
func inOneLine(text string) string {
	text = strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return '?'
		}
		return r
	}, text)
	if len(text) > maxReason {
		text = text[:maxReason] + "…"
	}
	return text
}

// reason is what a broker says about a token that it refuses.
func reason(challenge []byte) string {
	var said struct {
		Status string `json:"status"`
		Scope  string `json:"scope"`
		Config string `json:"openid-configuration"`
	}
	text := string(challenge)
	if json.Unmarshal(challenge, &said) == nil && said.Status != "" {
		text = said.Status
	}
	if said.Scope != "" {
		text += ", it wants the scope " + said.Scope
	}
	if said.Config != "" {
		text += ", see " + said.Config
	}
	return text
}

// claims are what is worth telling of a token that is a JWT. It has a signature that makes
// it secret; these are not.
type claims struct {
	Issuer   string          `json:"iss"`
	Subject  string          `json:"sub"`
	Audience json.RawMessage `json:"aud"` // a text or a list of texts
	Expires  float64         `json:"exp"` // seconds since 1970
}

func claimsOf(token string) (c claims, ok bool) {
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		return c, false
	}
	text, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		return c, false
	}
	return c, json.Unmarshal(text, &c) == nil
}

func (c claims) expiry() time.Time {
	if c.Expires <= 0 || c.Expires > 1e11 {
		return time.Time{}
	}
	return time.UnixMilli(int64(c.Expires * 1000))
}

// aboutToken tells what a token says of itself, "" where it is not a JWT.
func aboutToken(token string) string {
	c, ok := claimsOf(token)
	if !ok {
		return ""
	}
	text := fmt.Sprintf("; it is for subject %q and audience %s, from issuer %q", c.Subject, audience(c.Audience), c.Issuer)
	if expiry := c.expiry(); !expiry.IsZero() {
		text += ", and valid until " + expiry.UTC().Format(time.RFC3339)
	}
	return text
}

func audience(raw json.RawMessage) string {
	if len(raw) == 0 {
		return "none"
	}
	return string(raw)
}
