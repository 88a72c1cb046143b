package client

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/segmentio/kafka-go"
	"github.com/segmentio/kafka-go/protocol"
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
var lasting = []kafka.Error{
	kafka.InvalidRecord, kafka.PolicyViolation, kafka.InvalidTimestamp, kafka.UnsupportedForMessageFormat,
	kafka.UnsupportedCompressionType, kafka.UnsupportedVersion, kafka.SecurityDisabled, kafka.InvalidGroupId,
}

// refusalOf explains an error if it stays; it is nil if the next try may succeed.
func refusalOf(to access, err error) *Refusal {
	say := func(format string, args ...any) *Refusal { return &Refusal{fmt.Sprintf(format, args...), err} }
	var code kafka.Error
	if !errors.As(err, &code) {
		if isTLS(err) {
			return say("%v: %s", err, mendTLS)
		}
		return nil
	}
	switch code {
	case kafka.TopicAuthorizationFailed, kafka.GroupAuthorizationFailed, kafka.ClusterAuthorizationFailed:
		return say("this user may not %v (%s): %s", to, nameOf(code), mendRights)
	case kafka.UnknownTopicOrPartition:
		return say("topic %s does not exist (%s): %s", to.topic, nameOf(code), mendTopic)
	case kafka.InvalidTopic:
		return say("%s is no name of a topic (INVALID_TOPIC_EXCEPTION): %s", to.topic, mendTopic)
	case kafka.SASLAuthenticationFailed, kafka.UnsupportedSASLMechanism, kafka.IllegalSASLState:
		return say("Kafka does not let this user in (%s): %s", nameOf(code), mendLogin)
	}
	if slices.Contains(lasting, code) {
		return say("cannot %v (%s): %s", to, nameOf(code), code.Description())
	}
	return nil
}

// nameOf is how Kafka's documentation writes a code. (That of kafka-go's titles differs only for codes that
// refusalOf does not name.)
func nameOf(code kafka.Error) string {
	return strings.ToUpper(strings.ReplaceAll(code.Title(), " ", "_"))
}

func isTLS(err error) bool {
	var certificate *tls.CertificateVerificationError
	var alert tls.AlertError
	var header tls.RecordHeaderError
	return errors.As(err, &certificate) || errors.As(err, &alert) || errors.As(err, &header) ||
		strings.Contains(err.Error(), "remote error: tls: ") // an alert that came in the handshake has no type of its own
}

// isUnknownTopic says whether a broker, or what kafka-go remembers of the cluster, has no such topic.
func isUnknownTopic(err error) bool {
	return errors.Is(err, kafka.UnknownTopicOrPartition) || errors.Is(err, protocol.ErrNoTopic) || errors.Is(err, protocol.ErrNoPartition)
}

// lookAgain is how long a topic may be unknown to the broker that is asked while another has made it.
const lookAgain = 500 * time.Millisecond

// refusal is refusalOf, but for a topic that seems to be missing: Kafka leaves topics that a user may not see out
// of its list, and what kafka-go remembers of it may be out of date. So the topic is asked for by its name.
func (c *Client) refusal(ctx context.Context, to access, err error) *Refusal {
	if !isUnknownTopic(err) {
		return refusalOf(to, err)
	}
	err = c.lookUp(ctx, to.topic)
	if errors.Is(err, kafka.UnknownTopicOrPartition) {
		if !pause(ctx, lookAgain) {
			return nil
		}
		err = c.lookUp(ctx, to.topic)
	}
	if err == nil {
		return nil
	}
	return refusalOf(to, err)
}

const lookUpTimeout = 5 * time.Second

// lookUp asks Kafka for one topic by its name, with a connection of its own: kafka-go answers requests for metadata
// out of a list of all topics that it keeps. The error is Kafka's, nil if the topic exists.
func (c *Client) lookUp(ctx context.Context, topic string) error {
	shared, ok := c.broker.Client.Transport.(*kafka.Transport)
	if !ok {
		return kafka.UnknownTopicOrPartition // nothing better is known
	}
	ctx, cancel := context.WithTimeout(ctx, lookUpTimeout)
	defer cancel()
	transport := &kafka.Transport{
		Dial: shared.Dial, DialTimeout: shared.DialTimeout, ClientID: shared.ClientID, TLS: shared.TLS, SASL: shared.SASL,
		MetadataTopics: []string{topic},
	}
	defer transport.CloseIdleConnections()
	asking := kafka.Client{Addr: c.broker.Client.Addr, Transport: transport}
	metadata, err := asking.Metadata(ctx, &kafka.MetadataRequest{Topics: []string{topic}})
	if err != nil {
		return fmt.Errorf("look topic %s up: %w", topic, err)
	}
	for _, t := range metadata.Topics {
		if t.Name == topic {
			return t.Error
		}
	}
	return kafka.UnknownTopicOrPartition
}
