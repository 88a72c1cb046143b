package access

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/aws/aws-msk-iam-sasl-signer-go/signer"
	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/config"
	"golang.org/x/oauth2"
	"golang.org/x/oauth2/clientcredentials"
)

// TokenFile is the name of a file with a token, which others renew (a projected token of
// Kubernetes). It is read each time.
type TokenFile string

// Token is part of TokenSource.
func (f TokenFile) Token(context.Context) (string, error) {
	text, err := os.ReadFile(string(f))
	if err != nil {
		return "", fmt.Errorf("read the token: %w", err)
	}
	token := strings.TrimSpace(string(text))
	if !bearerToken.MatchString(token) {
		return "", fmt.Errorf("read the token: %s holds no token", string(f))
	}
	return token, nil
}

// ClientCredentialsOptions are the settings of ClientCredentials.
type ClientCredentialsOptions struct {
	TokenURL     string
	ClientID     string
	ClientSecret func() (string, error) // called for each token
	Scopes       []string
	Parameters   url.Values    // further ones of the request
	Certificates *Certificates // of the endpoint; nil: the system trusts it
	Timeout      time.Duration // of a request for a token
}

// ClientCredentials asks an OAuth endpoint for tokens with the grant client_credentials
// (RFC 6749, section 4.4). It keeps a token for four fifths of its life, so that a
// connection whose log-in is renewed late in that life gets a new one.
type ClientCredentials struct {
	options ClientCredentialsOptions
	config  clientcredentials.Config
	turn    chan struct{} // held by whoever uses what follows
	token   string
	renew   time.Time
	expires time.Time
}

// NewClientCredentials makes a source. Nothing is asked yet.
func NewClientCredentials(options ClientCredentialsOptions) *ClientCredentials {
	return &ClientCredentials{
		options: options,
		config: clientcredentials.Config{
			ClientID: options.ClientID, TokenURL: options.TokenURL, Scopes: options.Scopes, EndpointParams: options.Parameters,
		},
		turn: make(chan struct{}, 1),
	}
}

// Token is part of TokenSource. While the endpoint fails, a token that is still valid does.
func (c *ClientCredentials) Token(ctx context.Context) (string, error) {
	select {
	case c.turn <- struct{}{}:
		defer func() { <-c.turn }()
	case <-ctx.Done():
		return "", fmt.Errorf("wait for a token from %s: %w", c.endpoint(), context.Cause(ctx))
	}
	if time.Now().Before(c.renew) {
		return c.token, nil
	}
	asked := time.Now()
	token, err := c.ask(ctx)
	switch {
	case err == nil:
		c.keep(token, asked)
		return token.AccessToken, nil
	case time.Now().Before(c.expires):
		return c.token, nil
	default:
		return "", fmt.Errorf("ask %s for a token: %w", c.endpoint(), err)
	}
}

// keep keeps a token for as long as is known that it is valid.
func (c *ClientCredentials) keep(token *oauth2.Token, asked time.Time) {
	c.token, c.expires = token.AccessToken, token.Expiry
	if c.expires.IsZero() {
		if claims, ok := claimsOf(token.AccessToken); ok {
			c.expires = claims.expiry()
		}
	}
	c.renew = time.Time{}
	if lifetime := c.expires.Sub(asked); lifetime > 0 {
		c.renew = asked.Add(lifetime / 5 * 4)
	}
}

func (c *ClientCredentials) ask(ctx context.Context) (*oauth2.Token, error) {
	secret, err := c.options.ClientSecret()
	if err != nil {
		return nil, err
	}
	c.config.ClientSecret = secret
	// One for each request: they are minutes apart, and the certificates may have changed.
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.DisableKeepAlives = true
	if c.options.Certificates != nil {
		transport.TLSClientConfig = c.options.Certificates.Config()
	}
	client := &http.Client{Timeout: c.options.Timeout, Transport: transport}
	token, err := c.config.Token(context.WithValue(ctx, oauth2.HTTPClient, client))
	if refused := (*oauth2.RetrieveError)(nil); errors.As(err, &refused) {
		return nil, describe(refused)
	}
	return token, err
}

// describe leaves out the body of the answer, which can be long, and can have what was asked.
func describe(refused *oauth2.RetrieveError) error {
	text := "it answers"
	if refused.Response != nil {
		text += " " + refused.Response.Status
	}
	for _, more := range []string{refused.ErrorCode, refused.ErrorDescription} {
		if more != "" {
			text += ": " + more
		}
	}
	return errors.New(text)
}

// endpoint is the URL without a secret that it may have.
func (c *ClientCredentials) endpoint() string {
	parsed, err := url.Parse(c.options.TokenURL)
	if err != nil {
		return "the endpoint"
	}
	return parsed.Redacted()
}

// MSK makes tokens for Amazon MSK: requests signed with the credentials of AWS's default
// chain (environment, files, web identity, container, instance), valid for 15 minutes.
type MSK struct {
	Region string

	mutex       sync.Mutex
	credentials aws.CredentialsProvider
}

// Token is part of TokenSource. It needs the network only where the credentials do.
func (m *MSK) Token(ctx context.Context) (string, error) {
	provider, err := m.provider(ctx)
	if err != nil {
		return "", fmt.Errorf("find AWS credentials: %w", err)
	}
	token, _, err := signer.GenerateAuthTokenFromCredentialsProvider(ctx, m.Region, provider)
	if err != nil {
		return "", fmt.Errorf("make a token for Amazon MSK: %w", err)
	}
	return token, nil
}

// provider finds the credentials' source once: it keeps those that are valid for a time, and
// asking for new ones for each connection is slowed down by AWS.
func (m *MSK) provider(ctx context.Context) (aws.CredentialsProvider, error) {
	m.mutex.Lock()
	defer m.mutex.Unlock()
	if m.credentials == nil {
		found, err := config.LoadDefaultConfig(ctx, config.WithRegion(m.Region))
		if err != nil {
			return nil, err
		}
		m.credentials = found.Credentials
	}
	return m.credentials, nil
}
