package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/segmentio/kafka-go"

	"tollgate/internal/settings"
	"tollgate/internal/wire"
)

type tailCommand struct {
	What          string `arg:"" enum:"results,usage,dead-letters,command-results" help:"results, usage, dead-letters or command-results."`
	Customer      string `short:"c" placeholder:"ID" group:"Request" help:"Only what is about this customer."`
	FromBeginning bool   `group:"Request" help:"Begin with what is there already."`
	Count         int    `short:"n" placeholder:"N" group:"Request" help:"End after so many records."`
	connection    `embed:""`
}

// Check notes what is wrong with the flags.
func (c *tailCommand) Check(problems *settings.Problems) { c.connection.check(problems) }

func (c *tailCommand) Run(ctx context.Context) error {
	reader, err := c.connect(ctx)
	if err != nil {
		return err
	}
	topic := map[string]string{
		"results": c.Topics.CheckResults, "usage": c.Topics.UsageEvents,
		"dead-letters": c.Topics.DeadLetters, "command-results": c.Topics.CommandResults,
	}[c.What]
	listener, err := reader.Listen(ctx, topic, c.FromBeginning)
	if err != nil {
		return err
	}
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	seen, page := 0, newPage(os.Stdout)
	return listener.Run(ctx, func(record kafka.Message) {
		if ctx.Err() != nil || (c.Customer != "" && string(record.Key) != c.Customer) {
			return
		}
		if c.json() {
			printJSON(record)
		} else {
			page.record(c.What, record)
		}
		if seen++; seen == c.Count {
			stop()
		}
	})
}

// printJSON prints a record's value as a line where it is JSON; a dead letter need
// not be, and is printed as a text in an object.
func printJSON(record kafka.Message) {
	if json.Valid(record.Value) && !strings.Contains(string(record.Value), "\n") {
		fmt.Printf("%s\n", record.Value)
		return
	}
	headers := map[string]string{}
	for _, header := range record.Headers {
		headers[header.Key] = string(header.Value)
	}
	line, _ := json.Marshal(map[string]any{"key": string(record.Key), "value": string(record.Value), "headers": headers})
	fmt.Printf("%s\n", line)
}

// drawsText says what was taken from which pools, and what is left there.
func drawsText(draws []wire.DrawRecord) string {
	if len(draws) == 0 {
		return "nothing"
	}
	var texts []string
	for _, draw := range draws {
		texts = append(texts, fmt.Sprintf("%s %s (%s left)", draw.Value, draw.FeatureID, draw.Remaining))
	}
	return strings.Join(texts, " + ")
}

// record shows a record in a line.
func (p page) record(what string, record kafka.Message) {
	at := p.paint.Faint(record.Time.Format(time.TimeOnly + ".000"))
	switch what {
	case "results":
		var r wire.ResultRecord
		if json.Unmarshal(record.Value, &r) == nil {
			verdict, remaining := p.paint.Bad("denied "), ""
			if r.Allowed {
				verdict = p.paint.Good("allowed")
			}
			if r.Balance != nil {
				remaining = fmt.Sprintf("%s %s left", r.Balance.Remaining, r.Balance.FeatureID)
			}
			if r.Lock != nil {
				remaining += fmt.Sprintf(", lock %s holds %s", r.Lock.LockID, r.Lock.Value)
			}
			p.line("%s  %s  %-20s %-16s %-14s %s", at, verdict, r.Code, r.CustomerID, r.FeatureID, remaining)
			return
		}
	case "usage":
		var e wire.EventRecord
		if json.Unmarshal(record.Value, &e) == nil {
			from := e.ID
			if e.Data.LockID != "" {
				from += ", lock " + e.Data.LockID
			}
			p.line("%s  %-16s %-14s %10s  = %s  %s", at, e.Subject, e.Type, e.Data.Value, drawsText(e.Data.Draws), p.paint.Faint(from))
			return
		}
	case "command-results":
		var r commandResult
		if json.Unmarshal(record.Value, &r) == nil {
			verdict, why := p.paint.Good("done  "), ""
			if r.Error != nil {
				verdict, why = p.paint.Bad("failed"), string(r.Error.Code)
			}
			p.line("%s  %s  %-16s %-16s %s", at, verdict, r.Type, r.CustomerID, why)
			return
		}
	}
	reason := ""
	for _, header := range record.Headers {
		if header.Key == wire.HeaderDeadReason {
			reason = string(header.Value)
		}
	}
	p.line("%s  %s  %q", at, p.paint.Bad(reason), record.Value)
}
