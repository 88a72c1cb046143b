package main

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/schollz/progressbar/v3"
	"github.com/segmentio/kafka-go"

	"tollgate/internal/client"
	"tollgate/internal/settings"
	"tollgate/internal/wire"
)

type sendCommand struct {
	File       string        `arg:"" optional:"" default:"-" help:"File with a check request per line, - for standard input."`
	Strict     bool          `group:"Request" help:"End at the first bad line."`
	Wait       bool          `group:"Request" help:"Wait for the results, and print a summary."`
	Timeout    time.Duration `default:"30s" group:"Request" help:"With --wait: give up when no result has come for so long."`
	keys       `embed:""`
	connection `embed:""`
}

// Help explains what a second run does.
func (c *sendCommand) Help() string {
	return `Lines that deduct (send_event) get an idempotency key each: that of --idempotency-key, or one made for this run, and the number
of the line behind it. So a run that broke off can be repeated with the same key, and what it had sent counts once, as long as the
lines are the same and the worker's --idempotency-window has not passed. A key costs Redis about as much as a customer for that time.`
}

// Check notes what is wrong with the flags.
func (c *sendCommand) Check(problems *settings.Problems) {
	c.connection.check(problems)
	c.keys.check(problems)
	if c.Timeout <= 0 {
		problems.Add("--timeout must be more than 0s")
	}
}

const (
	sendBatch    = 500
	maxLineBytes = 16 << 20
)

// sent is the summary of a send.
type sent struct {
	Sent     int            `json:"sent"`
	Bad      int            `json:"bad_lines"`
	Answered *int           `json:"answered,omitempty"`
	Missing  int            `json:"missing,omitempty"`
	Key      string         `json:"idempotency_key,omitempty"` // with the line's number, that of each line that deducts
	Codes    map[string]int `json:"codes,omitempty"`
	Latency  *latencies     `json:"latency_ms,omitempty"`
}

func (c *sendCommand) Run(ctx context.Context) error {
	lines, size, err := openLines(c.File)
	if err != nil {
		return err
	}
	defer lines.Close()
	sender, err := c.connect(ctx)
	if err != nil {
		return err
	}
	results := newTally()
	if c.Wait {
		var stop func()
		if ctx, stop, err = listen(ctx, sender, c.Topics.CheckResults, results.settle); err != nil {
			return err
		}
		defer stop()
	}
	summary, err := c.send(ctx, sender, lines, size, results)
	if err != nil {
		return err
	}
	if c.Wait {
		summary.Missing = results.wait(ctx, c.Timeout)
		if err := deaf(ctx); err != nil {
			return fmt.Errorf("%d requests were sent: %w", summary.Sent, err)
		}
		answered, latency := results.count(), results.latencies()
		summary.Answered, summary.Codes, summary.Latency = &answered, results.codes, &latency
	}
	return c.report(summary)
}

func openLines(path string) (io.ReadCloser, int64, error) {
	if path == "-" {
		return io.NopCloser(os.Stdin), -1, nil
	}
	file, err := os.Open(path)
	if err != nil {
		return nil, 0, err
	}
	info, err := file.Stat()
	if err != nil {
		return nil, 0, err
	}
	return file, info.Size(), nil
}

// send sends every good line, and names the bad ones.
func (c *sendCommand) send(ctx context.Context, sender *client.Client, lines io.Reader, size int64, results *tally) (*sent, error) {
	bar := newProgress(size, "sending", progressbar.OptionShowBytes(true))
	defer func() { _ = bar.Finish() }()
	scanner := bufio.NewScanner(lines)
	scanner.Buffer(nil, maxLineBytes)
	run := client.NewRequestID()
	summary := &sent{}
	var batch []kafka.Message
	flush := func() error {
		if err := sender.Send(ctx, batch); err != nil {
			return c.brokeOff(cmp.Or(deaf(ctx), err), summary)
		}
		summary.Sent += len(batch)
		batch = batch[:0]
		return nil
	}
	number := 0
	for scanner.Scan() {
		number++
		_ = bar.Add(len(scanner.Bytes()) + 1)
		line := bytes.TrimSpace(scanner.Bytes())
		if len(line) == 0 {
			continue
		}
		check, err := wire.DecodeCheck(line, nil)
		if err != nil {
			summary.Bad++
			fmt.Fprintf(os.Stderr, "line %d: %v\n", number, err)
			if c.Strict {
				return nil, errors.Join(flush(), fmt.Errorf("ended at line %d (--strict); %d requests were sent", number, summary.Sent+len(batch)))
			}
			continue
		}
		id := fmt.Sprintf("%s-%d", run, number)
		if c.Wait {
			results.expect(id, time.Now())
		}
		headers := []kafka.Header{client.Header(wire.HeaderRequestID, id)}
		if (check.SendEvent || check.Lock.Enabled) && !c.NoIdempotencyKey {
			summary.Key = cmp.Or(c.IdempotencyKey, run)
			headers = append(headers, client.Header(wire.HeaderIdempotencyKey, fmt.Sprintf("%s/%d", summary.Key, number)))
		}
		request := client.Request{Topic: c.Topics.Checks, CustomerID: check.CustomerID, Value: bytes.Clone(line), Headers: headers}
		if batch = append(batch, request.Record()); len(batch) == sendBatch {
			if err := flush(); err != nil {
				return nil, err
			}
		}
	}
	if err := scanner.Err(); err != nil {
		return nil, fmt.Errorf("line %d: %w", number+1, err)
	}
	return summary, flush()
}

// brokeOff says how to go on after an error in the middle.
func (c *sendCommand) brokeOff(err error, summary *sent) error {
	if _, refused := errors.AsType[*client.Refusal](err); refused && summary.Sent == 0 {
		return err // there is nothing to go on from
	}
	return fmt.Errorf("%d requests were sent, perhaps some behind them%s: %w", summary.Sent, sendAgain(summary), err)
}

// sendAgain says how what was sent can be sent once more, "" if nothing of it deducts.
func sendAgain(summary *sent) string {
	if summary.Key == "" {
		return ""
	}
	return fmt.Sprintf(" (send all again with --idempotency-key %s, and each counts once)", summary.Key)
}

func (c *sendCommand) report(summary *sent) error {
	if c.json() {
		if err := json.NewEncoder(os.Stdout).Encode(summary); err != nil {
			return err
		}
	} else {
		fmt.Printf("%d requests sent", summary.Sent)
		if summary.Bad > 0 {
			fmt.Printf(", %d bad lines left out", summary.Bad)
		}
		if summary.Answered != nil {
			fmt.Printf(", %d answered\n%v", *summary.Answered, *summary.Latency)
		}
		fmt.Println()
		newPage(os.Stdout).codes(summary.Codes)
	}
	switch {
	case summary.Missing > 0:
		fmt.Fprintf(os.Stderr, "%d requests have no result yet%s\n", summary.Missing, sendAgain(summary))
		return exitNoAnswer
	case summary.Bad > 0:
		return exitError
	}
	return nil
}
