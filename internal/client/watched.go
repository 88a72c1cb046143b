package client

import (
	"context"
	"fmt"
	"net"
	"sync/atomic"

	"github.com/segmentio/kafka-go"
	"github.com/segmentio/kafka-go/protocol/metadata"
	"github.com/segmentio/kafka-go/protocol/produce"
)

// watched reads what brokers answer a Publisher, which tries until its context ends. That suits a worker: what waits is
// published once an operator has given a right back. Somebody who waits at a terminal must be told; so a
// refusal ends the sending, and what may pass is logged once, for all that is being sent.
type watched struct {
	kafka.RoundTripper
	client  *Client
	failing atomic.Bool
}

// giveUpKey is the context's key of a context.CancelCauseFunc: what to call with a *Refusal.
type giveUpKey struct{}

// RoundTrip is that of the transport.
func (w *watched) RoundTrip(ctx context.Context, addr net.Addr, request kafka.Request) (kafka.Response, error) {
	response, err := w.RoundTripper.RoundTrip(ctx, addr, request)
	if giveUp, ok := ctx.Value(giveUpKey{}).(context.CancelCauseFunc); ok && ctx.Err() == nil {
		w.judge(ctx, response, err, giveUp)
	}
	return response, err
}

// judge looks at an answer, or at why there is none.
func (w *watched) judge(ctx context.Context, response kafka.Response, err error, giveUp context.CancelCauseFunc) {
	topic, wrote := "", false
	if err == nil {
		topic, wrote, err = errorIn(response)
	}
	to := access{verb: "write to", topic: topic}
	if topic == "" {
		to.verb = "write" // no connection was made
	}
	switch {
	case err != nil:
		if refusal := w.client.refusal(ctx, to, err); refusal != nil {
			giveUp(refusal)
		} else if w.failing.CompareAndSwap(false, true) {
			w.client.logger.Warn(fmt.Sprintf("cannot %v, trying again", to), "error", err)
		}
	case wrote && w.failing.CompareAndSwap(true, false):
		w.client.logger.Info("Kafka takes records again")
	}
}

// errorIn is the first error in an answer, with its topic. wrote says that there is none, and that records were written.
// Records that are too large are the Publisher's to divide.
func errorIn(response kafka.Response) (topic string, wrote bool, err error) {
	switch answer := response.(type) {
	case *metadata.Response:
		for _, topic := range answer.Topics {
			if topic.ErrorCode != 0 {
				return topic.Name, false, kafka.Error(topic.ErrorCode)
			}
		}
	case *produce.Response:
		for _, topic := range answer.Topics {
			for _, partition := range topic.Partitions {
				switch code := kafka.Error(partition.ErrorCode); code {
				case 0, kafka.MessageSizeTooLarge, kafka.RecordListTooLarge:
				default:
					return topic.Topic, false, code
				}
			}
		}
		return "", true, nil
	}
	return "", false, nil
}
