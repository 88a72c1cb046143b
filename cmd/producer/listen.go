package main

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/segmentio/kafka-go"

	"tollgate/internal/client"
)

// listen gives the results that come on a topic to settle, one at a time, until stop is called. The context that it
// returns is to be used from then on: it ends if the topic can no longer be read, since waiting is in vain then.
// deaf says why.
func listen(ctx context.Context, reader *client.Client, topic string, settle func(kafka.Message)) (listening context.Context, stop func(), err error) {
	listener, err := reader.Listen(ctx, topic, false)
	if err != nil {
		return ctx, nil, err
	}
	listening, cancel := context.WithCancelCause(ctx)
	var running sync.WaitGroup
	running.Go(func() {
		if err := listener.Run(listening, settle); err != nil {
			cancel(fmt.Errorf("the results cannot be read: %w", err))
		}
	})
	return listening, func() { cancel(nil); running.Wait() }, nil
}

// deaf is why a listening context has ended by itself, nil if it has not.
func deaf(listening context.Context) error {
	cause := context.Cause(listening)
	if _, ok := errors.AsType[*client.Refusal](cause); ok {
		return cause
	}
	return nil
}
