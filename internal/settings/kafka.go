package settings

import (
	"crypto/tls"
	"strings"
	"time"

	kafkago "github.com/segmentio/kafka-go"
	"github.com/segmentio/kafka-go/sasl"
	"github.com/segmentio/kafka-go/sasl/plain"
	"github.com/segmentio/kafka-go/sasl/scram"

	"tollgate/internal/kafka"
)

// Kafka are the settings of the connection to a Kafka cluster.
type Kafka struct {
	Brokers          []string `placeholder:"HOST:PORT" help:"Brokers to begin with${kafka_brokers_default}."`
	TLS              `embed:""`
	SASLMechanism    string `name:"sasl-mechanism" placeholder:"NAME" help:"plain, scram-sha-256 or scram-sha-512."`
	SASLUsername     string `name:"sasl-username" placeholder:"NAME" help:"User to log in as."`
	SASLPassword     string `name:"sasl-password" placeholder:"SECRET" help:"Its password."`
	SASLPasswordFile string `name:"sasl-password-file" placeholder:"FILE" help:"File with its password."`
}

const dialTimeout = 5 * time.Second

// clientID names us to the brokers.
const clientID = "tollgate"

// Check notes what is wrong.
func (k *Kafka) Check(problems *Problems) {
	if len(k.Brokers) == 0 {
		problems.Missing("kafka-brokers", "host:port of one or more brokers, with commas")
	}
	checkAddresses("kafka-brokers", k.Brokers, problems)
	k.encryption(problems)
	k.mechanism(problems)
}

func (k *Kafka) encryption(problems *Problems) *tls.Config { return k.config("kafka", problems) }

func (k *Kafka) mechanism(problems *Problems) sasl.Mechanism {
	password := secret("kafka-sasl-password", k.SASLPassword, k.SASLPasswordFile, problems)
	if k.SASLMechanism == "" {
		if k.SASLUsername != "" || password != "" {
			problems.Add("--kafka-sasl-username and --kafka-sasl-password need --kafka-sasl-mechanism: plain, scram-sha-256 or scram-sha-512")
		}
		return nil
	}
	if k.SASLUsername == "" {
		problems.Missing("kafka-sasl-username", "the user to log in as")
	}
	if password == "" {
		problems.Missing("kafka-sasl-password", "its password; --kafka-sasl-password-file reads it from a file")
	}
	algorithms := map[string]scram.Algorithm{"scram-sha-256": scram.SHA256, "scram-sha-512": scram.SHA512}
	name := strings.ToLower(k.SASLMechanism)
	if name == "plain" {
		return plain.Mechanism{Username: k.SASLUsername, Password: password}
	}
	algorithm, known := algorithms[name]
	if !known {
		problems.Add("--kafka-sasl-mechanism: %q is none of plain, scram-sha-256 and scram-sha-512", k.SASLMechanism)
		return nil
	}
	mechanism, err := scram.Mechanism(algorithm, k.SASLUsername, password)
	if err != nil {
		problems.Add("--kafka-sasl-username: %v", err)
	}
	return mechanism
}

// Broker makes the clients of settings that were checked. Nothing is connected yet.
func (k *Kafka) Broker() kafka.Broker {
	var checked Problems
	encryption, mechanism := k.encryption(&checked), k.mechanism(&checked)
	transport := &kafkago.Transport{
		TLS: encryption, SASL: mechanism, ClientID: clientID, DialTimeout: dialTimeout, MetadataTTL: 6 * time.Second,
	}
	return kafka.NewBroker(k.Brokers, transport)
}
