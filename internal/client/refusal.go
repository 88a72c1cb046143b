package client

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	kafkago "github.com/segmentio/kafka-go"

	"tollgate/internal/retry"
)

// Refusal is an error of Kafka that stays however often one tries: a right that is missing, a
// topic that does not exist, a password that is wrong. Its text says what to do.
type Refusal struct {
	text string
	err  error
}

func (r *Refusal) Error() string { return r.text }

func (r *Refusal) Unwrap() error { return r.err }

// access is what was tried.
type access struct {
	verb  string // read or write to
	topic string
	group string // "" if it was the topic itself, else the group whose offsets were used
}

func (a access) String() string {
	if a.group != "" {
		return fmt.Sprintf("%s the offsets of group %s", a.verb, a.group)
	}
	if a.topic == "" {
		return a.verb
	}
	return fmt.Sprintf("%s topic %s", a.verb, a.topic)
}

const (
	mendRights = "docs/security.md lists what a producer must be allowed"
	mendTopic  = "'worker topics create' makes it; the flags --topic-… say if it has another name"
	mendLogin  = "--kafka-sasl-mechanism, --kafka-sasl-username and --kafka-sasl-password say how to log in"
	mendTLS    = "--kafka-tls and the other flags --kafka-tls-… say how to encrypt, and whom to trust"
)

// lasting are the errors of Kafka that no further try mends, beside those that refusalOf has a text of its own
// for. Any other may pass: a leader that has moved, a broker that starts.
var lasting = []kafkago.Error{
	kafkago.InvalidRecord, kafkago.PolicyViolation, kafkago.InvalidTimestamp, kafkago.UnsupportedForMessageFormat,
	kafkago.UnsupportedCompressionType, kafkago.UnsupportedVersion, kafkago.SecurityDisabled, kafkago.InvalidGroupId,
}

// refusalOf explains an error if it stays; it is nil if the next try may succeed.
func refusalOf(to access, err error) *Refusal {
	say := func(format string, args ...any) *Refusal { return &Refusal{fmt.Sprintf(format, args...), err} }
	var code kafkago.Error
	if !errors.As(err, &code) {
		if isTLS(err) {
			return say("%v: %s", err, mendTLS)
		}
		return nil
	}
	switch code {
	case kafkago.TopicAuthorizationFailed, kafkago.GroupAuthorizationFailed, kafkago.ClusterAuthorizationFailed:
		return say("this user may not %v (%s): %s", to, nameOf(code), mendRights)
	case kafkago.UnknownTopicOrPartition:
		return say("topic %s does not exist (%s): %s", to.topic, nameOf(code), mendTopic)
	case kafkago.InvalidTopic:
		return say("%s is no name of a topic (INVALID_TOPIC_EXCEPTION): %s", to.topic, mendTopic)
	case kafkago.SASLAuthenticationFailed, kafkago.UnsupportedSASLMechanism, kafkago.IllegalSASLState:
		return say("Kafka does not let this user in (%s): %v; %s", nameOf(code), err, mendLogin)
	}
	if slices.Contains(lasting, code) {
		return say("cannot %v (%s): %s", to, nameOf(code), code.Description())
	}
	return nil
}

// nameOf is how Kafka's documentation writes a code. (That of kafka-go's titles differs only for codes that
// refusalOf does not name.)
func nameOf(code kafkago.Error) string {
	return strings.ToUpper(strings.ReplaceAll(code.Title(), " ", "_"))
}

func isTLS(err error) bool {
	var certificate *tls.CertificateVerificationError
	var alert tls.AlertError
	var header tls.RecordHeaderError
	return errors.As(err, &certificate) || errors.As(err, &alert) || errors.As(err, &header) ||
		strings.Contains(err.Error(), "remote error: tls: ") // an alert that came in the handshake has no type of its own
}

// lookAgain is how long a topic may be unknown to the broker that is asked while another has made it.
const lookAgain = 500 * time.Millisecond

// refusal is refusalOf, but a topic that seems to be missing is looked up once more.
func (c *Client) refusal(ctx context.Context, to access, err error) *Refusal {
	if errors.Is(err, kafkago.UnknownTopicOrPartition) {
		retry.Pause(ctx, retry.Policy{First: lookAgain, Longest: lookAgain}, 0)
		_, failures, lookErr := c.broker.Describe(ctx, []string{to.topic})
		if lookErr != nil || failures[to.topic] == nil {
			return nil
		}
		err = failures[to.topic]
	}
	return refusalOf(to, err)
}
