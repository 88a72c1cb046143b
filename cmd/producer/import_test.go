package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"tollgate/internal/proctest"
)

func importFlags(d *proctest.Deployment, file string) []string {
	return append([]string{"import", file, "--kafka-brokers", d.Broker.Addresses[0], "-o", "json"}, d.TopicFlags...)
}

func write(t *testing.T, name, text string) (file string) {
	t.Helper()
	file = filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

func readImport(t *testing.T, out proctest.Output) (summary imported) {
	t.Helper()
	if err := json.Unmarshal([]byte(out.Stdout), &summary); err != nil {
		t.Fatalf("%v: %s%s", err, out.Stdout, out.Stderr)
	}
	return summary
}

func TestImportMakesCustomersOfBothFormats(t *testing.T) {
	d := proctest.NewDeployment(t)
	d.StartReady(t)
	csv := write(t, "customers.csv", "\ufeffplans,customer_id,name\npro;message-pack,acme,\"Acme, Inc.\"\n,globex,Globex\n")
	out := proctest.Run(t, nil, "producer", importFlags(d, csv)...)
	if got := readImport(t, out); out.Code != 0 || got.Customers != 2 || got.Commands != 4 {
		t.Errorf("exit code %d: %+v\n%s", out.Code, got, out.Stderr)
	}
	jsonl := write(t, "customers.jsonl", `{"customer_id":"initech","plans":["pro"],"entities":[{"entity_id":"ada","feature_id":"seats"}],"grants":[{"feature_id":"messages","amount":7,"balance_id":"welcome"},{"feature_id":"messages","amount":3}]}`+"\n\n")
	for range 2 { // what is there stays as it is
		out = proctest.Run(t, nil, "producer", importFlags(d, jsonl)...)
		if got := readImport(t, out); out.Code != 0 || got.Customers != 1 || got.Commands != 5 || len(got.Failed) > 0 {
			t.Errorf("exit code %d: %+v\n%s", out.Code, got, out.Stderr)
		}
	}
	for customer, want := range map[string]string{"acme": "300", "initech": "110"} { // pro grants 100, the pack 200
		pool := d.Command(t, customer, `{"type":"customer.get","customer_id":%q}`, customer).Balances["messages"]
		if pool == nil || pool.Remaining.String() != want {
			t.Errorf("%s has %+v, want %s messages", customer, pool, want)
		}
	}
}

func TestImportNamesWhatIsWrongWithALine(t *testing.T) {
	d := proctest.NewDeployment(t)
	d.StartReady(t)
	file := write(t, "customers.jsonl", strings.Join([]string{
		`{"customer_id":"acme","plans":["nosuch"]}`, `{"name":"nobody"}`, `not json`, `{"customer_id":"globex","plan":"pro"}`, `{"customer_id":"initech"}`,
	}, "\n"))
	out := proctest.Run(t, nil, "producer", importFlags(d, file)...)
	got := readImport(t, out)
	if out.Code != 1 || got.BadLines != 3 || got.Failed["plan_not_found"] != 1 || got.Customers != 2 {
		t.Errorf("exit code %d: %+v", out.Code, got)
	}
	for _, want := range []string{"line 1: plan.attach: plan_not_found", "line 2: customer_id is missing", "line 3: ", `line 4: json: unknown field "plan"`} {
		if !strings.Contains(out.Stderr, want) {
			t.Errorf("no %q in\n%s", want, out.Stderr)
		}
	}
	for name, text := range map[string]string{"empty.csv": "", "columns.csv": "id,name\n", "twice.csv": "customer_id,customer_id\n"} {
		if out := proctest.Run(t, nil, "producer", importFlags(d, write(t, name, text))...); out.Code != 1 || !strings.Contains(out.Stderr, "customer_id") {
			t.Errorf("%s: exit code %d, %s", name, out.Code, out.Stderr)
		}
	}
	if out := proctest.Run(t, nil, "producer", importFlags(d, "customers.txt")...); out.Code != 2 || !strings.Contains(out.Stderr, ".csv or .jsonl") {
		t.Errorf("exit code %d, %s", out.Code, out.Stderr)
	}
}

// TestImportEndsAtALineThatCannotBeRead is a regression: it went on complaining of it for ever.
func TestImportEndsAtALineThatCannotBeRead(t *testing.T) {
	d := proctest.NewDeployment(t)
	d.StartReady(t)
	file := write(t, "customers.jsonl", `{"customer_id":"acme"}`+"\n"+strings.Repeat(" ", maxLineBytes+1)+"\n")
	out := proctest.Run(t, nil, "producer", importFlags(d, file)...)
	if out.Code != 1 || !strings.Contains(out.Stderr, "line 2: ") || !strings.Contains(out.Stderr, "stopped after line 1") {
		t.Errorf("exit code %d, %s", out.Code, out.Stderr)
	}
}

// TestImportBearsANullInALine is a regression: it panicked.
func TestImportBearsANullInALine(t *testing.T) {
	d := proctest.NewDeployment(t)
	d.StartReady(t)
	file := write(t, "customers.jsonl", `{"customer_id":"acme","plans":[null],"entities":[null],"grants":[null]}`+"\n"+`{"customer_id":"globex"} {}`+"\n")
	out := proctest.Run(t, nil, "producer", importFlags(d, file)...)
	if got := readImport(t, out); out.Code != 1 || got.Failed["invalid_request"] != 3 || got.BadLines != 1 || !strings.Contains(out.Stderr, "line 1: plan.attach: invalid_request: plan_id is missing") {
		t.Errorf("exit code %d: %+v\n%s", out.Code, got, out.Stderr)
	}
}

// TestImportGoesOnWhereItWasCutOff: no worker answers at first, so that the first run ends in
// the middle.
func TestImportGoesOnWhereItWasCutOff(t *testing.T) {
	d := proctest.NewDeployment(t)
	worker, _ := d.StartReady(t)
	var lines strings.Builder
	for n := range importChunk + 10 {
		fmt.Fprintf(&lines, `{"customer_id":"customer-%d","grants":[{"feature_id":"messages","amount":1}]}`+"\n", n)
	}
	file := write(t, "customers.jsonl", lines.String())
	source, err := openImport(file)
	if err != nil {
		t.Fatal(err)
	}
	defer source.Close()
	for range importChunk {
		if _, more, err := source.next(); !more || err != nil {
			t.Fatal(more, err)
		}
	}
	done := &progress{file: file + ".progress"}
	if err := done.note(source); err != nil {
		t.Fatal(err)
	}
	worker.Signal(t, os.Interrupt)
	worker.Wait(t)
	out := proctest.Run(t, nil, "producer", append(importFlags(d, file), "--timeout", "300ms")...)
	if out.Code != 4 || !strings.Contains(out.Stderr, fmt.Sprintf("stopped after line %d", importChunk)) {
		t.Fatalf("exit code %d: %s", out.Code, out.Stderr)
	}
	d.StartReady(t)
	out = proctest.Run(t, nil, "producer", importFlags(d, file)...)
	if got := readImport(t, out); out.Code != 0 || got.Resumed != importChunk || got.Customers != 10 {
		t.Errorf("exit code %d: %+v\n%s", out.Code, got, out.Stderr)
	}
	last := fmt.Sprintf("customer-%d", importChunk+9)
	pool := d.Command(t, last, `{"type":"customer.get","customer_id":%q}`, last).Balances["messages"]
	if pool == nil || pool.Granted.String() != "6" { // free grants 5; the grant was asked for twice and made once
		t.Errorf("%s has %+v", last, pool)
	}
	if _, err := os.Stat(file + ".progress"); !os.IsNotExist(err) {
		t.Errorf("the progress is still noted: %v", err)
	}

	if err := done.note(source); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte(strings.Replace(lines.String(), "customer-1\"", "another\"", 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	if out := proctest.Run(t, nil, "producer", importFlags(d, file)...); out.Code != 1 || !strings.Contains(out.Stderr, "--restart") {
		t.Errorf("a file that has changed: exit code %d, %s", out.Code, out.Stderr)
	}
}
