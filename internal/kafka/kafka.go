// Package kafka speaks Kafka's protocol: fetching, producing, offsets, groups, transactions, topics. It
// knows requests and what brokers answer to them, and nothing of what is read or written, nor of any
// guarantee: that is package stream.
//
// Connections, TLS, SASL and the finding of brokers are kafka-go's. The requests on which guarantees rest are
// encoded and decoded by kmsg, which is generated from Kafka's own definitions: see exchange.go and
// docs/adr/0010-protocol.md.
package kafka

import (
	"context"
	"fmt"
	"strings"

	kafkago "github.com/segmentio/kafka-go"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// Message is a record, read or to be written. A Partition of AnyPartition leaves the choice to the key.
type Message = kafkago.Message

// Header is a header of a record.
type Header = kafkago.Header

// AnyPartition is the partition of a record whose key is to choose.
const AnyPartition = -1

// Broker is a Kafka cluster, as its brokers are reached.
type Broker struct {
	Addresses []string
	Client    *kafkago.Client
	layouts   *layouts
}

// NewBroker reaches the cluster whose brokers some addresses are, each host:port. Nothing is connected yet.
func NewBroker(addresses []string, transport *kafkago.Transport) Broker {
	return Broker{
		Addresses: addresses, Client: &kafkago.Client{Addr: kafkago.TCP(addresses...), Transport: transport},
		layouts: &layouts{known: map[string]knownLayout{}},
	}
}

// ClusterID is the id that a cluster was given when it was made.
func (b Broker) ClusterID(ctx context.Context) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	request := kmsg.NewPtrMetadataRequest()
	request.Version, request.Topics = metadataVersion, []kmsg.MetadataRequestTopic{}
	response, err := ask[*kmsg.MetadataResponse](ctx, b, request, anyBroker)
	if err != nil {
		return "", fmt.Errorf("read the cluster's id: %w", err)
	}
	if response.ClusterID == nil {
		return "", nil
	}
	return *response.ClusterID, nil
}

// Reachable fails if no broker answers.
func (b Broker) Reachable(ctx context.Context) error {
	if _, err := b.Client.ApiVersions(ctx, &kafkago.ApiVersionsRequest{}); err != nil {
		return fmt.Errorf("kafka at %s: %w", strings.Join(b.Addresses, ","), err)
	}
	return nil
}
