package wire

import (
	"encoding/binary"
	"fmt"
	"strconv"

	"github.com/segmentio/kafka-go"

	"tollgate/internal/balance"
)

// Names of headers, in requests and in what is sent back.
const (
	HeaderRequestID      = "request-id"
	HeaderIdempotencyKey = "idempotency-key"
	HeaderReplyTopic     = "reply-topic"
	HeaderExpiresAt      = "expires-at"
	HeaderContentType    = "content-type"

	headerTraceParent          = "traceparent"
	headerTraceState           = "tracestate"
	headerSpringCorrelationID  = "kafka_correlationId"
	headerSpringReplyTopic     = "kafka_replyTopic"
	headerSpringReplyPartition = "kafka_replyPartition"

	contentTypeJSON       = "application/json"
	contentTypeCloudEvent = "application/cloudevents+json; charset=utf-8"
)

// AnyPartition stands for "where the key belongs".
const AnyPartition = -1

const maxIdempotencyKeyBytes = 256

// Headers is what a request's headers say.
type Headers struct {
	RequestID      string // <topic>/<partition>/<offset> where none is given
	IdempotencyKey string
	ReplyTopic     string // "" for the default
	ReplyPartition int    // AnyPartition, or that of Spring's reply header
	ExpiresAtMs    int64  // 0: never
	trace          []kafka.Header
	echo           []kafka.Header
}

// DecodeHeaders reads the headers of a request. An error has code
// invalid_request; the other headers are read all the same.
func DecodeHeaders(record *kafka.Message) (Headers, *balance.Error) {
	h := Headers{ReplyPartition: AnyPartition}
	var err *balance.Error
	springTopic := ""
	for _, header := range record.Headers {
		switch header.Key {
		case HeaderRequestID:
			h.RequestID = string(header.Value)
		case HeaderIdempotencyKey:
			if len(header.Value) > maxIdempotencyKeyBytes {
				err = invalidHeader(header.Key, "is longer than %d bytes", maxIdempotencyKeyBytes)
				continue
			}
			h.IdempotencyKey = string(header.Value)
		case HeaderReplyTopic:
			h.ReplyTopic = string(header.Value)
		case HeaderExpiresAt:
			ms, parseErr := strconv.ParseInt(string(header.Value), 10, 64)
			if parseErr != nil || ms < 1 {
				err = invalidHeader(header.Key, "must be a time in Unix milliseconds, as decimal digits")
				continue
			}
			h.ExpiresAtMs = ms
		case headerSpringReplyTopic:
			springTopic = string(header.Value)
			h.echo = append(h.echo, header)
		case headerSpringReplyPartition:
			h.echo = append(h.echo, header)
			if len(header.Value) != 4 {
				err = invalidHeader(header.Key, "must be a big-endian int32")
				continue
			}
			h.ReplyPartition = int(int32(binary.BigEndian.Uint32(header.Value)))
		case headerSpringCorrelationID:
			h.echo = append(h.echo, header)
		case headerTraceParent, headerTraceState:
			h.trace = append(h.trace, header)
		}
	}
	if h.ReplyTopic == "" {
		h.ReplyTopic = springTopic
	}
	if h.ReplyTopic == "" || h.ReplyPartition < 0 {
		h.ReplyPartition = AnyPartition
	}
	if h.RequestID == "" {
		h.RequestID = fmt.Sprintf("%s/%d/%d", record.Topic, record.Partition, record.Offset)
	}
	return h, err
}

func invalidHeader(name, format string, args ...any) *balance.Error {
	return &balance.Error{Code: balance.InvalidRequest, Message: "header " + name + " " + fmt.Sprintf(format, args...)}
}

// resultHeaders are the headers of a result.
func (h *Headers) resultHeaders() []kafka.Header {
	headers := make([]kafka.Header, 0, 2+len(h.echo)+len(h.trace))
	headers = append(headers,
		kafka.Header{Key: HeaderRequestID, Value: []byte(h.RequestID)},
		kafka.Header{Key: HeaderContentType, Value: []byte(contentTypeJSON)})
	headers = append(headers, h.echo...)
	return append(headers, h.trace...)
}

// eventHeaders are the headers of a usage event.
func (h *Headers) eventHeaders() []kafka.Header {
	return append([]kafka.Header{{Key: HeaderContentType, Value: []byte(contentTypeCloudEvent)}}, h.trace...)
}
