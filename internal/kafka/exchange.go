package kafka

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"time"

	kafkago "github.com/segmentio/kafka-go"
	"github.com/segmentio/kafka-go/protocol"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// Versions of the requests: the newest that Kafka 2.8 knows, which is the oldest that the worker runs with.
// Later ones know them, too.
const (
	addOffsetsVersion      = 3
	addPartitionsVersion   = 3
	endTxnVersion          = 3
	fetchByNameVersion     = 12
	fetchByIDVersion       = 13 // Kafka 3.1
	heartbeatVersion       = 4
	initProducerVersion    = 4
	joinGroupVersion       = 7
	leaveGroupVersion      = 4
	listOffsetsVersion     = 6
	metadataVersion        = 10
	offsetCommitVersion    = 8
	offsetFetchVersion     = 7
	produceVersion         = 9
	syncGroupVersion       = 5
	txnOffsetCommitVersion = 3
)

// askTimeout bounds how long a broker may take for a request that it answers at once.
const askTimeout = 10 * time.Second

// formatter writes requests. Brokers need not be told the client's id with each: kafka-go tells it when it
// connects, but quotas go by that of the request.
func (b Broker) formatter() *kmsg.RequestFormatter {
	if transport, ok := b.Client.Transport.(*kafkago.Transport); ok && transport.ClientID != "" {
		return kmsg.NewRequestFormatter(kmsg.FormatterClientID(transport.ClientID))
	}
	return kmsg.NewRequestFormatter()
}

// A route makes the message that kafka-go sends to the right broker: its transport finds that out by the
// methods that a message has (package protocol: BrokerMessage, GroupMessage, TransactionalMessage).
type route func(x *exchange) protocol.Message

func anyBroker(x *exchange) protocol.Message { return x }

func brokerWithID(id int32) route {
	return func(x *exchange) protocol.Message { return brokerExchange{x, id} }
}

func coordinatorOf(group string) route {
	return func(x *exchange) protocol.Message { return groupExchange{x, group} }
}

func transactionCoordinatorOf(id string) route {
	return func(x *exchange) protocol.Message { return transactionExchange{x, id} }
}

type brokerExchange struct {
	*exchange
	id int32
}

// Broker is the one that the request goes to (protocol.BrokerMessage).
func (x brokerExchange) Broker(protocol.Cluster) (protocol.Broker, error) {
	return protocol.Broker{ID: x.id}, nil
}

type groupExchange struct {
	*exchange
	group string
}

// Group is the one whose coordinator the request goes to (protocol.GroupMessage).
func (x groupExchange) Group() string { return x.group }

type transactionExchange struct {
	*exchange
	id string
}

// Transaction is the transactional id whose coordinator the request goes to (protocol.TransactionalMessage).
func (x transactionExchange) Transaction() string { return x.id }

// ask sends a request and waits for its answer, which is of type R. It fails if the connection does, or ctx
// ends: then nobody knows whether the broker did what it was asked. Errors within an answer are the caller's.
func ask[R kmsg.Response](ctx context.Context, b Broker, request kmsg.Request, to route) (answer R, err error) {
	response, err := b.Client.Transport.RoundTrip(ctx, b.Client.Addr, to(&exchange{formatter: b.formatter(), request: request}))
	if err != nil {
		return answer, err
	}
	return response.(*exchange).response.(R), nil
}

// exchange is a request of kmsg's that takes its way through a connection of kafka-go's
// (protocol.RawExchanger), and then its answer.
//
// kafka-go's own messages would do for some, but it reads a heartbeat's answer in the wrong order (its pull
// request 1371), does not know the versions in which topics have ids and offsets have leader epochs, asks for
// offsets that are not stable, and takes a fetched batch apart as a whole, however large it is uncompressed.
type exchange struct {
	formatter *kmsg.RequestFormatter
	request   kmsg.Request
	response  kmsg.Response
}

// ApiKey names the request (protocol.Message).
func (x *exchange) ApiKey() protocol.ApiKey { return protocol.ApiKey(x.request.Key()) }

// Required says that the message writes and reads itself, whatever versions kafka-go would choose.
func (*exchange) Required(map[protocol.ApiKey]int16) bool { return true }

// mostAnswerBytes is more than any answer has that we ask for. A connection on which something else than
// Kafka answers must not have us allocate what its first bytes happen to say.
const mostAnswerBytes = 128 << 20

var errNotKafka = errors.New("the answer is none of Kafka's")

// RawExchange writes the request and reads the answer.
func (x *exchange) RawExchange(connection io.ReadWriter) (protocol.Message, error) {
	const correlationID = 0 // a connection has one request at a time
	if _, err := connection.Write(x.formatter.AppendRequest(nil, x.request, correlationID)); err != nil {
		return nil, err
	}
	var head [8]byte
	if _, err := io.ReadFull(connection, head[:]); err != nil {
		return nil, fmt.Errorf("%s: %w", kmsg.NameForKey(x.request.Key()), unexpected(err))
	}
	size := binary.BigEndian.Uint32(head[:]) - uint32(len(head)/2)
	if size > mostAnswerBytes || binary.BigEndian.Uint32(head[4:]) != correlationID {
		return nil, fmt.Errorf("%s: %w", kmsg.NameForKey(x.request.Key()), errNotKafka)
	}
	body := make([]byte, size)
	if _, err := io.ReadFull(connection, body); err != nil {
		return nil, fmt.Errorf("%s: %w", kmsg.NameForKey(x.request.Key()), unexpected(err))
	}
	x.response = x.request.ResponseKind()
	if x.response.IsFlexible() {
		var err error
		if body, err = withoutTags(body); err != nil {
			return nil, err
		}
	}
	if err := x.response.ReadFrom(body); err != nil {
		return nil, fmt.Errorf("%s: %w: %w", kmsg.NameForKey(x.request.Key()), errNotKafka, err)
	}
	return x, nil
}

func unexpected(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// withoutTags leaves out the tags at the end of an answer's header (KIP-482). No broker sends any yet.
func withoutTags(body []byte) ([]byte, error) {
	count, n := binary.Uvarint(body)
	if n <= 0 || count > 0 {
		return nil, fmt.Errorf("%w: its header has %d tags", errNotKafka, count)
	}
	return body[n:], nil
}

// errNotAttempted says that a partition was left alone because the same request failed for another.
var errNotAttempted = errors.New("not attempted, since another partition of the request was refused")

// errorOf makes an error of the code in an answer, nil of none.
func errorOf(code int16) error {
	const notAttempted = 55 // which kafka-go takes for "Broker Authorization Failed"
	switch code {
	case 0:
		return nil
	case notAttempted:
		return errNotAttempted
	}
	return kafkago.Error(code)
}
