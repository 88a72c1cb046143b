// Package conformance runs the worked examples in testdata through the real
// path: records on a broker, decisions back from the result topic. Only the
// clock is ours.
package conformance

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/segmentio/kafka-go"

	"tollgate/internal/servertest"
	"tollgate/internal/wire"
)

var ran, passed int

func TestMain(m *testing.M) {
	code := servertest.Main(m)
	fmt.Printf("conformance: %d cases ran, %d passed\n", ran, passed)
	os.Exit(code)
}

func TestWorkedExamples(t *testing.T) {
	folder := cmp.Or(os.Getenv("TOLLGATE_CASES"), "testdata")
	cases := readCases(t, folder)
	if len(cases) == 0 {
		t.Fatalf("no cases in %s", folder)
	}
	r := newRig(t)
	for _, c := range cases {
		ran++
		if t.Run(c.file+"/"+c.Name, func(t *testing.T) { runCase(t, r, folder, c) }) {
			passed++
		}
	}
}

// run is a case under way.
type run struct {
	*testing.T
	rig      *rig
	previous []kafka.Message // what the step before sent
	seen     map[string]bool // ids of usage events
}

func runCase(t *testing.T, r *rig, folder string, c example) {
	r.begin(t, folder, c)
	state := &run{T: t, rig: r, seen: map[string]bool{}}
	for i, s := range c.Steps {
		state.step(i+1, s)
		if t.Failed() {
			return
		}
	}
}

func (r *run) step(number int, s step) {
	r.Helper()
	if s.Now != "" {
		r.rig.setClock(clockTime(r.T, s.Now))
	}
	results := r.send(number, s)
	allowed := 0
	for _, result := range results {
		object, _ := result.(map[string]any)
		if object["allowed"] == true || object["ok"] == true {
			allowed++
		}
		if s.Expect != nil {
			r.report(number, mismatches("result", s.Expect.json, result), result)
		}
		for _, key := range s.Absent {
			if _, there := object[key]; there {
				r.Errorf("step %d: result.%s is there: %s", number, key, show(result))
			}
		}
	}
	events := r.newEvents()
	switch {
	case s.Counts != nil:
		r.count(number, "allowed", s.Counts.Allowed, allowed)
		r.count(number, "denied", s.Counts.Denied, len(results)-allowed)
		r.count(number, "usage", s.Counts.Usage, len(events))
	case len(events) != len(s.Usage):
		r.Errorf("step %d: want %d usage events, got %d: %s", number, len(s.Usage), len(events), show(events))
	}
	for i := range s.Usage {
		if i < len(events) {
			r.report(number, mismatches(fmt.Sprintf("usage[%d]", i), s.Usage[i].json, events[i]), events[i])
		}
	}
	r.deadLetters(number, s)
}

func (r *run) report(number int, problems []string, got any) {
	if len(problems) > 0 {
		r.Errorf("step %d: %s\n%s", number, strings.Join(problems, "\n"), show(got))
	}
}

func (r *run) count(number int, what string, want *int, got int) {
	if want != nil && *want != got {
		r.Errorf("step %d: want %d %s, got %d", number, *want, what, got)
	}
}

// send sends a step's records and returns their results.
func (r *run) send(number int, s step) []any {
	r.Helper()
	if s.Redeliver {
		r.rig.redeliver(r.T, r.previous[len(r.previous)-1])
		return r.resultsOf(number, r.previous[len(r.previous)-1:])
	}
	topic, body := r.rig.topics.Checks, s.Check
	if s.Command != nil {
		topic, body = r.rig.topics.Commands, s.Command
	}
	var records []kafka.Message
	for i := range max(1, s.Repeat) {
		var record kafka.Message
		for name, text := range s.Headers {
			record.Headers = append(record.Headers, kafka.Header{Key: name, Value: []byte(numbered(text, i+1).(string))})
		}
		switch {
		case s.Raw != nil:
			record.Value = []byte(*s.Raw)
		case body != nil:
			object := numbered(body.json, i+1)
			record.Value, _ = json.Marshal(object)
			if fields, ok := object.(map[string]any); ok {
				if id, ok := fields["customer_id"].(string); ok {
					record.Key = []byte(id)
				}
			}
		default:
			r.Fatalf("step %d has nothing to send", number)
		}
		records = append(records, record)
	}
	r.previous = nil
	if s.Concurrent {
		r.previous = r.rig.send(r.T, topic, records)
	} else {
		for _, record := range records {
			r.previous = append(r.previous, r.rig.send(r.T, topic, []kafka.Message{record})...)
		}
	}
	return r.resultsOf(number, r.previous)
}

// requestID is what the result of a record bears.
func requestID(record kafka.Message) string {
	if id := headerOf(record, wire.HeaderRequestID); id != "" {
		return id
	}
	return place(record.Topic, record.Partition, record.Offset)
}

// resultsOf returns exactly one result for each record.
func (r *run) resultsOf(number int, records []kafka.Message) []any {
	r.Helper()
	all := r.rig.resultsOf(r.T)
	var results []any
	for _, record := range records {
		id := requestID(record)
		if len(all[id]) == 0 {
			r.Fatalf("step %d: no result of %s", number, id)
		}
		r.rig.contracts.request(r.T, record.Value, all[id][0])
		results = append(results, all[id][0])
		all[id] = all[id][1:]
	}
	for id, more := range all {
		if len(more) > 0 {
			r.Fatalf("step %d: a result too many of %s: %s", number, id, show(more))
		}
	}
	return results
}

// newEvents returns the data of the usage events that have come, without repeats.
func (r *run) newEvents() []any {
	r.Helper()
	records, err := r.rig.usage.Next(r.Context())
	if err != nil {
		r.Fatal(err)
	}
	var events []any
	for _, record := range records {
		r.rig.contracts.hold(r.T, r.rig.contracts.usageEvent, record.Value)
		event, err := decodeJSON(record.Value)
		if err != nil {
			r.Fatalf("usage event %s: %v", record.Value, err)
		}
		object := event.(map[string]any)
		id := fmt.Sprint(object["source"], " ", object["id"])
		if !r.seen[id] {
			r.seen[id] = true
			events = append(events, object["data"])
		}
	}
	return events
}

func (r *run) deadLetters(number int, s step) {
	r.Helper()
	dead, err := r.rig.dead.Next(r.Context())
	if err != nil {
		r.Fatal(err)
	}
	if !s.DeadLetter {
		return
	}
	for _, sent := range r.previous {
		found := false
		for _, record := range dead {
			found = found || sameRecord(sent, record)
		}
		if !found {
			r.Errorf("step %d: the record is not on the dead-letter topic", number)
		}
	}
}

// sameRecord says whether a dead letter has the record's key, value and headers.
func sameRecord(sent, dead kafka.Message) bool {
	if !bytes.Equal(sent.Value, dead.Value) || !bytes.Equal(sent.Key, dead.Key) || len(dead.Headers) < len(sent.Headers) {
		return false
	}
	for i, header := range sent.Headers {
		if dead.Headers[i].Key != header.Key || !bytes.Equal(dead.Headers[i].Value, header.Value) {
			return false
		}
	}
	return true
}
