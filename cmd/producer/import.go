package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/schollz/progressbar/v3"
	"github.com/segmentio/kafka-go"
	"github.com/tidwall/gjson"

	"tollgate/internal/balance"
	"tollgate/internal/client"
	"tollgate/internal/settings"
	"tollgate/internal/wire"
)

type importCommand struct {
	File       string        `arg:"" help:"customers.csv, with a header, or customers.jsonl."`
	Timeout    time.Duration `default:"30s" group:"Request" help:"Give up when no result has come for so long; the next run goes on from there."`
	Restart    bool          `group:"Request" help:"Begin with the first line, whatever an earlier run has done."`
	connection `embed:""`
}

// Help explains the file.
func (c *importCommand) Help() string {
	return `Creates customers, attaches their plans, creates their entities and grants their balances, a line for each customer.

CSV, with any of these columns, customer_id among them; several plans have a semicolon between them:
  customer_id,name,email,plans
  acme,Acme Inc.,ops@acme.example,pro;extra-messages

JSON lines:
  {"customer_id":"acme","name":"Acme Inc.","plans":["pro",{"plan_id":"seats","quantities":{"seats":10}}],
   "entities":[{"entity_id":"seat-1","feature_id":"seats"}],"grants":[{"feature_id":"messages","amount":500,"balance_id":"welcome"}]}

A run that was cut off is gone on with: what is done is noted in <file>.progress. An entity or a balance_id that is there
already stays as it is; a grant without a balance_id is made anew when a line is imported again after --idempotency-window.`
}

// Check notes what is wrong with the flags.
func (c *importCommand) Check(problems *settings.Problems) {
	c.connection.check(problems)
	if c.Timeout <= 0 {
		problems.Add("--timeout must be more than 0s")
	}
	if formatOf(c.File) == nil {
		problems.Add("%s: the name must end with .csv or .jsonl", c.File)
	}
}

// importChunk is how many lines are sent before their results are waited for.
const importChunk = 2000

// imported is the summary of an import.
type imported struct {
	Lines     int            `json:"lines"`
	Resumed   int            `json:"resumed_after,omitempty"`
	Customers int            `json:"customers"`
	Commands  int            `json:"commands"`
	Existing  int            `json:"existing,omitempty"` // entities and grants that were there
	Failed    map[string]int `json:"failed,omitempty"`   // commands, by code
	BadLines  int            `json:"bad_lines,omitempty"`
	Seconds   float64        `json:"seconds"`
}

func (c *importCommand) Run(ctx context.Context) error {
	source, err := openImport(c.File)
	if err != nil {
		return err
	}
	defer source.Close()
	done := &progress{file: c.File + ".progress"}
	if !c.Restart {
		if err := done.resume(source); err != nil {
			return err
		}
	}
	sender, err := c.connect(ctx)
	if err != nil {
		return err
	}
	answers := &answers{awaited: newAwaited[int](), failed: map[string]int{}}
	ctx, stop, err := listen(ctx, sender, c.Topics.CommandResults, answers.settle)
	if err != nil {
		return err
	}
	defer stop()

	summary := &imported{Resumed: done.Lines}
	began := time.Now()
	err = c.send(ctx, sender, source, answers, done, summary)
	summary.Lines, summary.Existing, summary.Failed, summary.Seconds = source.line, answers.existing, answers.failed, time.Since(began).Seconds()
	if err != nil {
		fmt.Fprintf(os.Stderr, "stopped after line %d; the same command goes on from there\n", done.Lines)
		return err
	}
	return c.report(summary)
}

var errInterrupted = errors.New("interrupted")

func (c *importCommand) send(ctx context.Context, sender *client.Client, source *source, answers *answers, done *progress, summary *imported) error {
	bar := newProgress(source.size, "customers", progressbar.OptionShowBytes(true))
	defer func() { _ = bar.Finish() }()
	for {
		var records []kafka.Message
		lines, more := 0, true
		var unread error // the rest of the file cannot be read
		for lines < importChunk && more {
			var customer *importedCustomer
			var err error
			customer, more, err = source.next()
			switch {
			case !more:
				unread = err
			case err != nil:
				summary.BadLines++
				fmt.Fprintf(os.Stderr, "line %d: %v\n", source.line, err)
			default:
				summary.Customers++
				for n, command := range customer.commands() {
					records = append(records, c.record(source, n, command, answers))
				}
			}
			lines++
		}
		summary.Commands += len(records)
		if err := sender.Send(ctx, records); ctx.Err() != nil {
			return cmp.Or(deaf(ctx), errInterrupted)
		} else if err != nil {
			return err
		}
		if missing := answers.wait(ctx, c.Timeout); ctx.Err() != nil {
			return cmp.Or(deaf(ctx), errInterrupted)
		} else if missing > 0 {
			return fmt.Errorf("%d commands have no result: %w", missing, client.ErrNoAnswer)
		}
		if err := done.note(source); err != nil {
			return err
		}
		_ = bar.Set64(source.read())
		if unread != nil {
			return unread
		}
		if !more {
			return os.Remove(done.file)
		}
	}
}

// record is a command of the line that was read last. Where sending it again would add
// something it has an idempotency key, made of the line's content; a key costs Redis about as
// much as a customer, for a day.
func (c *importCommand) record(source *source, n int, command map[string]any, answers *answers) kafka.Message {
	value, err := json.Marshal(command)
	if err != nil {
		panic(err) // it was read from JSON or CSV
	}
	id := client.NewRequestID()
	answers.expect(id, source.line)
	headers := []kafka.Header{client.Header(wire.HeaderRequestID, id)}
	if kind := command["type"]; kind == "plan.attach" || kind == "balance.grant" && command["balance_id"] == nil {
		headers = append(headers, client.Header(wire.HeaderIdempotencyKey, fmt.Sprintf("import/%s/%d", source.lineDigest(), n)))
	}
	request := client.Request{Topic: c.Topics.Commands, CustomerID: command["customer_id"].(string), Value: value, Headers: headers}
	return request.Record()
}

// answers tells what became of the commands that were sent.
type answers struct {
	*awaited[int]                // line of each
	failed        map[string]int // by code
	existing      int
}

func (a *answers) settle(record kafka.Message) {
	a.awaited.settle(client.RequestID(record.Headers), func(line int) {
		fields := gjson.GetManyBytes(record.Value, "ok", "type", "error.code", "error.message")
		switch {
		case fields[0].Bool():
		case fields[2].Str == string(balance.Conflict): // the entity, or the grant, is there already
			a.existing++
		default:
			a.failed[fields[2].Str]++
			fmt.Fprintf(os.Stderr, "line %d: %s: %s: %s\n", line, fields[1].Str, fields[2].Str, fields[3].Str)
		}
	})
}

func (c *importCommand) report(summary *imported) error {
	if c.json() {
		if err := json.NewEncoder(os.Stdout).Encode(summary); err != nil {
			return err
		}
	} else {
		fmt.Printf("%d customers imported with %d commands in %.1f s", summary.Customers, summary.Commands, summary.Seconds)
		if summary.Resumed > 0 {
			fmt.Printf(", going on after line %d", summary.Resumed)
		}
		fmt.Println()
	}
	var problems []string
	if summary.BadLines > 0 {
		problems = append(problems, fmt.Sprintf("%d lines could not be read", summary.BadLines))
	}
	for _, code := range slices.Sorted(maps.Keys(summary.Failed)) {
		problems = append(problems, fmt.Sprintf("%d commands failed: %s", summary.Failed[code], code))
	}
	if len(problems) > 0 {
		fmt.Fprintln(os.Stderr, strings.Join(problems, "\n"))
		return exitError
	}
	return nil
}
