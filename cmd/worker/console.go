package main

import (
	"context"
	"errors"
	"net/http"
	"time"

	"github.com/segmentio/kafka-go"

	"tollgate/internal/client"
	"tollgate/internal/console"
	"tollgate/internal/engine"
	"tollgate/internal/ops"
	"tollgate/internal/wire"
)

// watched are metrics, and a page that shows some of what they count.
type watched struct {
	*ops.Metrics
	feed *console.Feed
}

func (w watched) Checked(result *wire.Result) {
	w.Metrics.Checked(result)
	w.feed.Checked(result)
}

// pageFlags are the settings of the worker's page.
type pageFlags struct {
	Console      bool `default:"${console}" negatable:"" group:"General" help:"Serve a page at / that shows decisions and customers' balances to whoever can reach the address."`
	ConsoleWrite bool `default:"${console}" negatable:"" group:"General" help:"Let that page send checks, too."`
}

// serve makes the worker's page, nil where it is off, and who observes the engine.
func (p pageFlags) serve(w *worker, topics wire.Topics) (engine.Observer, http.Handler) {
	if !p.Console {
		return w.metrics, nil
	}
	feed := &console.Feed{}
	options := console.Options{
		Gatherer: w.metrics.Registry, Feed: feed,
		Features: func() []string {
			var ids []string
			for i := range w.engine.Catalog().Features {
				ids = append(ids, w.engine.Catalog().Features[i].ID)
			}
			return ids
		},
		Customer: func(ctx context.Context, customerID string) ([]byte, error) { return w.engine.Inspect(ctx, customerID) },
	}
	if p.ConsoleWrite {
		asking := client.New(w.broker, w.logger)
		options.Check = func(ctx context.Context, request []byte) ([]byte, time.Duration, error) {
			check, err := wire.DecodeCheck(request, nil)
			if unreadable := (*wire.Unreadable)(nil); errors.As(err, &unreadable) { // any other error is for the worker to answer
				return nil, 0, err
			}
			answer, err := asking.Ask(ctx, client.Request{
				Topic: topics.Checks, CustomerID: check.CustomerID, Value: request,
				Headers: []kafka.Header{client.Header(wire.HeaderRequestID, client.NewRequestID())},
			}, topics.CheckResults)
			return answer.Record.Value, answer.Took, err
		}
	}
	return watched{w.metrics, feed}, console.Handler(options)
}
