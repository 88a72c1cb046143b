package settings

import (
	"cmp"
	"context"
	"log/slog"
	"net/url"
	"os"
	"slices"
	"strings"

	"github.com/segmentio/kafka-go/sasl"
	"github.com/segmentio/kafka-go/sasl/plain"
	"github.com/segmentio/kafka-go/sasl/scram"

	"tollgate/internal/access"
)

// SASL are the settings of logging in to Kafka.
type SASL struct {
	Mechanism    string `placeholder:"NAME" help:"plain, scram-sha-256, scram-sha-512, oauthbearer or aws-msk-iam."`
	Username     string `placeholder:"NAME" help:"User to log in as, with plain and scram."`
	Password     string `placeholder:"SECRET" help:"Its password."`
	PasswordFile string `placeholder:"FILE" help:"File with its password."`

	TokenFile  string   `placeholder:"FILE" help:"File with the token of oauthbearer, read again at each log-in."`
	OAuth      OAuth    `embed:"" prefix:"oauth-"`
	Extensions []string `placeholder:"NAME=VALUE" help:"What oauthbearer tells the broker beside the token."`

	AWSRegion string `name:"aws-region" placeholder:"NAME" help:"Region of the Amazon MSK cluster, with aws-msk-iam; that of AWS_REGION where none is given."`
}

// OAuth are the settings of asking an OAuth endpoint for tokens.
type OAuth struct {
	TokenURL         string   `name:"token-url" placeholder:"URL" help:"Endpoint that gives tokens for oauthbearer (client credentials)."`
	ClientID         string   `name:"client-id" placeholder:"ID" help:"Client to ask as."`
	ClientSecret     string   `placeholder:"SECRET" help:"Its secret."`
	ClientSecretFile string   `placeholder:"FILE" help:"File with its secret, read again for each token."`
	Scopes           []string `placeholder:"SCOPE" help:"Scopes to ask for."`
	Parameters       []string `placeholder:"NAME=VALUE" help:"Further parameters of the request, like audience=kafka."`
	TLSCA            string   `name:"tls-ca" placeholder:"FILE" help:"Certificates of the endpoint's authorities (PEM); the system's where none is given."`
}

// The names of the mechanisms, as --kafka-sasl-mechanism takes them in any case.
const (
	saslPlain   = "plain"
	scramSHA256 = "scram-sha-256"
	scramSHA512 = "scram-sha-512"
	oauthBearer = "oauthbearer"
	mskIAM      = "aws-msk-iam"
)

// name is that of the mechanism. MSK's own documents write AWS_MSK_IAM.
func (s *SASL) name() string { return strings.ReplaceAll(strings.ToLower(s.Mechanism), "_", "-") }

// mechanism is nil where nobody is to log in.
func (s *SASL) mechanism(problems *Problems, logger *slog.Logger) sasl.Mechanism {
	s.checkUse(problems)
	switch s.name() {
	case "":
		return nil
	case saslPlain, scramSHA256, scramSHA512:
		return s.password(problems)
	case oauthBearer:
		return s.bearer(problems, logger)
	case mskIAM:
		region := cmp.Or(s.AWSRegion, os.Getenv("AWS_REGION"), os.Getenv("AWS_DEFAULT_REGION"))
		if region == "" {
			problems.Missing("kafka-sasl-aws-region", "the region of the cluster; AWS_REGION does as well")
		}
		return &access.OAuthBearer{Tokens: &access.MSK{Region: region}}
	default:
		problems.Add("--kafka-sasl-mechanism: %q is none of plain, scram-sha-256, scram-sha-512, oauthbearer and aws-msk-iam", s.Mechanism)
		return nil
	}
}

// checkUse notes settings that belong to another mechanism: they would be silently ignored.
func (s *SASL) checkUse(problems *Problems) {
	passwords := []string{saslPlain, scramSHA256, scramSHA512}
	for _, setting := range []struct {
		flag string
		set  bool
		of   []string
	}{
		{"username", s.Username != "", passwords},
		{"password", s.Password != "", passwords},
		{"password-file", s.PasswordFile != "", passwords},
		{"token-file", s.TokenFile != "", []string{oauthBearer}},
		{"oauth-token-url", s.OAuth.TokenURL != "", []string{oauthBearer}},
		{"extensions", len(s.Extensions) > 0, []string{oauthBearer}},
		{"aws-region", s.AWSRegion != "", []string{mskIAM}},
	} {
		if setting.set && !slices.Contains(setting.of, s.name()) {
			problems.Add("--kafka-sasl-%s needs --kafka-sasl-mechanism %s", setting.flag, strings.Join(setting.of, " or "))
		}
	}
}

func (s *SASL) password(problems *Problems) sasl.Mechanism {
	password := secret("kafka-sasl-password", s.Password, s.PasswordFile, problems)
	if s.Username == "" {
		problems.Missing("kafka-sasl-username", "the user to log in as")
	}
	if password == "" {
		problems.Missing("kafka-sasl-password", "its password; --kafka-sasl-password-file reads it from a file")
	}
	if s.name() == saslPlain {
		return plain.Mechanism{Username: s.Username, Password: password}
	}
	algorithm := map[string]scram.Algorithm{scramSHA256: scram.SHA256, scramSHA512: scram.SHA512}[s.name()]
	mechanism, err := scram.Mechanism(algorithm, s.Username, password)
	if err != nil {
		problems.Add("--kafka-sasl-username: %v", err)
	}
	return mechanism
}

func (s *SASL) bearer(problems *Problems, logger *slog.Logger) sasl.Mechanism {
	mechanism := &access.OAuthBearer{Extensions: map[string]string{}}
	for name, values := range pairs("kafka-sasl-extensions", s.Extensions, problems) {
		if err := access.CheckExtension(name, values[0]); err != nil {
			problems.Add("--kafka-sasl-extensions: %v", err)
		} else if len(values) > 1 {
			problems.Add("--kafka-sasl-extensions: %s is given more than once", name)
		}
		mechanism.Extensions[name] = values[0]
	}
	switch {
	case s.TokenFile != "" && s.OAuth.TokenURL != "":
		problems.Add("give either --kafka-sasl-token-file or --kafka-sasl-oauth-token-url, not both")
	case s.TokenFile != "":
		tokens := access.TokenFile(s.TokenFile)
		if _, err := tokens.Token(context.Background()); err != nil {
			problems.Add("--kafka-sasl-token-file: %v", err)
		}
		mechanism.Tokens = tokens
	case s.OAuth.TokenURL != "":
		mechanism.Tokens = s.OAuth.source(problems, logger)
	default:
		problems.Missing("kafka-sasl-token-file", "the file with the token; --kafka-sasl-oauth-token-url asks an endpoint for it")
	}
	return mechanism
}

func (o *OAuth) source(problems *Problems, logger *slog.Logger) *access.ClientCredentials {
	const flag = "kafka-sasl-oauth-"
	if parsed, err := url.Parse(o.TokenURL); err != nil || parsed.Host == "" || parsed.Scheme != "https" && parsed.Scheme != "http" {
		problems.Add("--%stoken-url must be a URL like https://login.example.com/oauth2/token", flag)
	}
	if o.ClientID == "" {
		problems.Missing(flag+"client-id", "the client to ask as")
	}
	if secret(flag+"client-secret", o.ClientSecret, o.ClientSecretFile, problems) == "" {
		problems.Missing(flag+"client-secret", "its secret; --"+flag+"client-secret-file reads it from a file")
	}
	var certificates *access.Certificates
	if o.TLSCA != "" {
		certificates = readCertificates("kafka-sasl-oauth", access.Files{CA: o.TLSCA}, problems, logger)
	}
	return access.NewClientCredentials(access.ClientCredentialsOptions{
		TokenURL: o.TokenURL, ClientID: o.ClientID, Scopes: o.Scopes, Parameters: pairs(flag+"parameters", o.Parameters, problems),
		Certificates: certificates, Timeout: dialTimeout,
		ClientSecret: func() (string, error) {
			var failed Problems
			value := secret(flag+"client-secret", o.ClientSecret, o.ClientSecretFile, &failed)
			if len(failed) > 0 {
				return "", failed
			}
			return value, nil
		},
	})
}

// pairs are the values by name of a flag that takes NAME=VALUE.
func pairs(flag string, texts []string, problems *Problems) url.Values {
	values := url.Values{}
	for _, text := range texts {
		name, value, ok := strings.Cut(text, "=")
		if !ok || name == "" {
			problems.Add("--%s: %q must be NAME=VALUE", flag, text)
			continue
		}
		values.Add(name, value)
	}
	return values
}
