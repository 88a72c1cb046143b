package settings

import (
	"log/slog"
	"os"
	"regexp"
	"strings"
	"time"

	kafkago "github.com/segmentio/kafka-go"

	"tollgate/internal/access"
	"tollgate/internal/kafka"
)

// Kafka are the settings of the connection to a Kafka cluster.
type Kafka struct {
	Brokers  []string `placeholder:"HOST:PORT" help:"Brokers to begin with${kafka_brokers_default}."`
	ClientID string   `name:"client-id" default:"${kafka_client_id}" help:"What brokers know this program by, for quotas and in their logs; {hostname} in it is replaced."`
	TLS      `embed:""`
	SASL     SASL `embed:"" prefix:"sasl-"`
}

const dialTimeout = 5 * time.Second

// Check notes what is wrong.
func (k *Kafka) Check(problems *Problems) {
	if len(k.Brokers) == 0 {
		problems.Missing("kafka-brokers", "host:port of one or more brokers, with commas")
	}
	checkAddresses("kafka-brokers", k.Brokers, problems)
	if !clientIDs.MatchString(k.ClientID) {
		problems.Add("--kafka-client-id: %q must have 1 to 200 visible ASCII characters", k.ClientID)
	}
	k.dialer(problems, nil)
}

// clientIDs are the ids that brokers and their tools take without trouble.
var clientIDs = regexp.MustCompile(`^[\x21-\x7e]{1,200}$`)

// clientID is the id as brokers see it. Unless asked for, it does not tell one worker from
// another: quotas are those of an id.
func (k *Kafka) clientID() string {
	host, err := os.Hostname()
	if err != nil {
		host = "unknown"
	}
	return strings.ReplaceAll(k.ClientID, "{hostname}", host)
}

// dialer is nil where connections are neither encrypted nor logged in on.
func (k *Kafka) dialer(problems *Problems, logger *slog.Logger) *access.Dialer {
	certificates := k.certificates("kafka", problems, logger)
	mechanism := k.SASL.mechanism(problems, logger)
	if k.SASL.name() == mskIAM && !k.TLS.TLS {
		problems.Add("--kafka-sasl-mechanism %s needs --kafka-tls", mskIAM)
	}
	if certificates == nil && mechanism == nil {
		return nil
	}
	return &access.Dialer{Timeout: dialTimeout, Certificates: certificates, Mechanism: mechanism, ClientID: k.clientID()}
}

// Broker makes the clients of settings that were checked. Nothing is connected yet. topics are those that kafka-go keeps
// itself informed of, nil for all that the cluster has.
func (k *Kafka) Broker(logger *slog.Logger, topics []string) kafka.Broker {
	var checked Problems
	transport := &kafkago.Transport{ClientID: k.clientID(), DialTimeout: dialTimeout, MetadataTTL: 6 * time.Second, MetadataTopics: topics}
	if d := k.dialer(&checked, logger); d != nil {
		transport.Dial = d.DialContext
	}
	return kafka.NewBroker(k.Brokers, transport)
}
