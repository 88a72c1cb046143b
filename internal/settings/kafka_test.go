package settings_test

import (
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/segmentio/kafka-go"

	"tollgate/internal/settings"
)

// parse is what the flags lead to.
func parse(t *testing.T, args ...string) (settings.Kafka, settings.Problems) {
	t.Helper()
	var c struct {
		Run kafkaCommand `cmd:""`
	}
	_, err := settings.Parse(&c, append([]string{"run", "--kafka-brokers", "127.0.0.1:1"}, args...))
	var problems settings.Problems
	if err != nil && !errors.As(err, &problems) {
		t.Fatal(err)
	}
	return c.Run.Kafka, problems
}

type kafkaCommand struct {
	Kafka settings.Kafka `embed:"" prefix:"kafka-"`
}

func (c *kafkaCommand) Check(problems *settings.Problems) { c.Kafka.Check(problems) }

func TestBrokersKnowTheClientByTheIDThatIsGiven(t *testing.T) {
	host, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	for given, want := range map[string]string{"": "tollgate-worker", "mine": "mine", "mine-{hostname}": "mine-" + host} {
		var args []string
		if given != "" {
			args = []string{"--kafka-client-id", given}
		}
		k, problems := parse(t, args...)
		if len(problems) > 0 {
			t.Fatal(problems)
		}
		broker := k.Broker(slog.New(slog.DiscardHandler), nil)
		if id := broker.Client.Transport.(*kafka.Transport).ClientID; id != want {
			t.Errorf("%q leads to %q", given, id)
		}
	}
	for _, bad := range []string{" ", "a b", "é", strings.Repeat("x", 201)} {
		if _, problems := parse(t, "--kafka-client-id", bad); len(problems) != 1 || !strings.Contains(problems[0], "--kafka-client-id") {
			t.Errorf("%q: %q", bad, problems)
		}
	}
}

func TestSettingsOfLoggingIn(t *testing.T) {
	for _, variable := range []string{"AWS_REGION", "AWS_DEFAULT_REGION"} {
		t.Setenv(variable, "")
	}
	folder := t.TempDir()
	token, secret, empty := filepath.Join(folder, "token"), filepath.Join(folder, "secret"), filepath.Join(folder, "empty")
	for file, text := range map[string]string{token: "a.b.c\n", secret: "s", empty: "\n"} {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	oauth := []string{"--kafka-sasl-mechanism", "OAUTHBEARER", "--kafka-sasl-oauth-token-url", "https://login/token", "--kafka-sasl-oauth-client-id", "me"}
	for _, c := range []struct {
		args []string
		want []string // beginnings of the problems, none where it is right
	}{
		{[]string{"--kafka-sasl-mechanism", "OAUTHBEARER", "--kafka-sasl-token-file", token}, nil},
		{[]string{"--kafka-sasl-mechanism", "oauthbearer", "--kafka-sasl-token-file", token, "--kafka-sasl-extensions", "logicalCluster=a,identityPoolId=b=c"}, nil},
		{append(oauth, "--kafka-sasl-oauth-client-secret-file", secret, "--kafka-sasl-oauth-scopes", "a,b", "--kafka-sasl-oauth-parameters", "audience=x"), nil},
		{[]string{"--kafka-sasl-mechanism", "AWS_MSK_IAM", "--kafka-sasl-aws-region", "eu-west-1", "--kafka-tls"}, nil},
		{[]string{"--kafka-sasl-mechanism", "aws-msk-iam"}, []string{"--kafka-sasl-aws-region is missing", "--kafka-sasl-mechanism aws-msk-iam needs --kafka-tls"}},
		{[]string{"--kafka-sasl-mechanism", "oauthbearer"}, []string{"--kafka-sasl-token-file is missing"}},
		{[]string{"--kafka-sasl-mechanism", "oauthbearer", "--kafka-sasl-token-file", empty}, []string{"--kafka-sasl-token-file: read the token: " + empty + " holds no token"}},
		{[]string{"--kafka-sasl-mechanism", "oauthbearer", "--kafka-sasl-token-file", token, "--kafka-sasl-oauth-token-url", "https://login"}, []string{"give either"}},
		{[]string{"--kafka-sasl-mechanism", "oauthbearer", "--kafka-sasl-token-file", token, "--kafka-sasl-extensions", "a=1,a=2,auth=x,y"}, []string{
			`--kafka-sasl-extensions: "y" must be NAME=VALUE`, "--kafka-sasl-extensions: a is given more than once", `--kafka-sasl-extensions: the name "auth"`,
		}},
		{oauth, []string{"--kafka-sasl-oauth-client-secret is missing"}},
		{append(oauth, "--kafka-sasl-oauth-client-secret", "s", "--kafka-sasl-oauth-tls-ca", empty), []string{"--kafka-sasl-oauth-tls-ca: " + empty + " holds no certificate"}},
		{[]string{"--kafka-sasl-mechanism", "oauthbearer", "--kafka-sasl-oauth-token-url", "login", "--kafka-sasl-oauth-client-secret", "s"}, []string{
			"--kafka-sasl-oauth-client-id is missing", "--kafka-sasl-oauth-token-url must be a URL",
		}},
		{[]string{"--kafka-sasl-mechanism", "kerberos"}, []string{`--kafka-sasl-mechanism: "kerberos" is none of`}},
		{[]string{"--kafka-sasl-mechanism", "plain"}, []string{"--kafka-sasl-password is missing", "--kafka-sasl-username is missing"}},
		{[]string{"--kafka-sasl-username", "u", "--kafka-sasl-token-file", token, "--kafka-sasl-aws-region", "x"}, []string{
			"--kafka-sasl-aws-region needs --kafka-sasl-mechanism aws-msk-iam", "--kafka-sasl-token-file needs --kafka-sasl-mechanism oauthbearer", "--kafka-sasl-username needs",
		}},
	} {
		_, problems := parse(t, c.args...)
		slices.Sort(problems)
		matches := len(problems) == len(c.want)
		for i := range min(len(problems), len(c.want)) {
			matches = matches && strings.HasPrefix(problems[i], c.want[i])
		}
		if !matches {
			t.Errorf("%q: got %q, not %q", c.args, problems, c.want)
		}
	}
	t.Setenv("AWS_REGION", "eu-west-1")
	if _, problems := parse(t, "--kafka-sasl-mechanism", "aws-msk-iam", "--kafka-tls"); len(problems) > 0 {
		t.Error(problems)
	}
}
