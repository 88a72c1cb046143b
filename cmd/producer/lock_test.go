package main

import (
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/alecthomas/kong"
	"github.com/segmentio/kafka-go"

	"tollgate/internal/settings"
	"tollgate/internal/wire"
)

var noon = time.UnixMilli(1_771_416_000_000) // 2026-02-18T12:00:00Z

func parsed(args ...string) (*cli, error) {
	var c cli
	_, err := settings.Parse(&c, args, kong.Name("producer"), kong.Vars{"kafka_client_id": "tollgate-producer"})
	return &c, err
}

func TestLocksAreAskedForAsTheyWereTyped(t *testing.T) {
	for _, test := range []struct {
		args   string
		fields func(c *cli) map[string]any
		want   string
	}{
		{"lock -c acme -f messages", func(c *cli) map[string]any { return c.Lock.fields(noon) }, `{"feature_id":"messages","lock":{"enabled":true}}`},
		{
			"lock -c acme -f messages -n 0.50 -e seat-1 --lock-id job-17 --expires-in 15m --overage-behavior cap --with-preview --property model=small",
			func(c *cli) map[string]any { return c.Lock.fields(noon) },
			`{"entity_id":"seat-1","feature_id":"messages","lock":{"enabled":true,"expires_at":1771416900000,"lock_id":"job-17","overage_behavior":"cap"},` +
				`"properties":{"model":"small"},"required_balance":0.50,"with_preview":true}`,
		},
		{
			"lock -c acme -f messages --expires-at 2026-02-18T13:00:00Z", func(c *cli) map[string]any { return c.Lock.fields(noon) },
			`{"feature_id":"messages","lock":{"enabled":true,"expires_at":1771419600000}}`,
		},
		{"finalize job-17 -c acme", func(c *cli) map[string]any { return c.Finalize.flags().fields() }, `{"action":"confirm","lock_id":"job-17"}`},
		{
			"finalize job-17 -c acme --value 0 --property n=3", func(c *cli) map[string]any { return c.Finalize.flags().fields() },
			`{"action":"confirm","lock_id":"job-17","override_value":0,"properties":{"n":3}}`,
		},
		{"finalize job-17 -c acme --release", func(c *cli) map[string]any { return c.Finalize.flags().fields() }, `{"action":"release","lock_id":"job-17"}`},
		{"extend job-17 -c acme --in 24h", func(c *cli) map[string]any { return c.Extend.fields(noon) }, `{"expires_at":1771502400000,"lock_id":"job-17"}`},
		{"extend job-17 -c acme --expires-at 7", func(c *cli) map[string]any { return c.Extend.fields(noon) }, `{"expires_at":7,"lock_id":"job-17"}`},
		{
			"command lock.finalize -c acme --lock-id job-17 --action confirm --override-value 1.5", func(c *cli) map[string]any { return c.Command.fields() },
			`{"action":"confirm","lock_id":"job-17","override_value":1.5}`,
		},
	} {
		c, err := parsed(strings.Fields(test.args)...)
		if err != nil {
			t.Errorf("%s: %v", test.args, err)
			continue
		}
		if got, err := json.Marshal(test.fields(c)); err != nil || string(got) != test.want {
			t.Errorf("%s asks\n%s, want\n%s (%v)", test.args, got, test.want, err)
		}
	}
}

func TestFlagsOfLocksThatCannotBe(t *testing.T) {
	for args, wants := range map[string][]string{
		"lock":                               {"--customer", "--feature"},
		"lock -c a -f f --expires-in 25h":    {"--expires-in must be more than 0s, and at most 24h"},
		"lock -c a -f f --expires-in=-1s":    {"--expires-in must be more than 0s"},
		"lock -c a -f f --expires-in 0s":     {"--expires-in must be more than 0s"},
		"lock -c a -f f --expires-at soon":   {`--expires-at: "soon" is no time`},
		"lock -c a -f f -n x":                {"--required-balance"},
		"lock -c a -f f --overage-behavior":  {"overage-behavior"},
		"lock -c a -f f --send-event":        {"--send-event"},
		"finalize":                           {"<lock-id>"},
		"finalize l":                         {"--customer"},
		"finalize l -c a --value x":          {"--value"},
		"finalize l -c a --release -n 1":     {"--release spends nothing"},
		"extend l":                           {"--customer", "--in"},
		"extend l -c a --in 25h":             {"--in must be more than 0s, and at most 24h"},
		"command lock.get -c a --action":     {"--action"},
		"command x -c a --override-value 1x": {"--override-value"},
		"lock -c a -f f --overage-behavior x --expires-in 1h --expires-at 7": {
			`"x" is none of cap, reject and allow`, "give either --expires-in or --expires-at",
		},
	} {
		_, err := parsed(strings.Fields(args)...)
		for _, want := range wants {
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%s: no %q in %v", args, want, err)
			}
		}
	}
}

// shown is what a page shows at noon.
func shown(t *testing.T, show func(p page)) string {
	t.Helper()
	out, err := os.CreateTemp(t.TempDir(), "page")
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	p := newPage(out)
	p.now = noon
	show(p)
	text, err := os.ReadFile(out.Name())
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func shownCommand(t *testing.T, record string) string {
	t.Helper()
	var result commandResult
	if err := json.Unmarshal([]byte(record), &result); err != nil {
		t.Fatal(err)
	}
	return shown(t, func(p page) { p.command(&result, time.Millisecond) })
}

// heldPool is a balance as records have it, of which so much is held.
func heldPool(held string) string {
	return fmt.Sprintf(`{"feature_id":"messages","granted":110,"remaining":60,"usage":50,"held":%s,"breakdown":[
		{"id":"pro/messages","remaining":50,"usage":50,"held":%[1]s},{"id":"gift","remaining":10,"usage":0,"held":0}]}`, held)
}

func TestWhatIsHeldIsShownWhereSomethingIs(t *testing.T) {
	held := shownCommand(t, `{"ok":true,"balances":{"messages":`+heldPool("20")+`}}`)
	for _, want := range []string{"60 of 110 left, 50 used (20 held)", "50 left         50 used (20 held)\n", "10 left          0 used\n"} {
		if !strings.Contains(held, want) {
			t.Errorf("no %q in\n%s", want, held)
		}
	}
	if nothing := shownCommand(t, `{"ok":true,"balances":{"messages":`+heldPool("0")+`}}`); strings.Contains(nothing, "held") {
		t.Errorf("nothing is held, but\n%s", nothing)
	}
}

func TestTheLockOfACheckIsShown(t *testing.T) {
	var result wire.ResultRecord
	record := `{"allowed":true,"code":"included","customer_id":"acme","feature_id":"messages","required_balance":20,
		"lock":{"lock_id":"job-17","value":20,"expires_at":1771416900000}}`
	if err := json.Unmarshal([]byte(record), &result); err != nil {
		t.Fatal(err)
	}
	const want = "lock job-17 holds 20 messages, expires in 15 min (2026-02-18 12:15)"
	if text := shown(t, func(p page) { p.check(&result, time.Millisecond) }); !strings.Contains(text, want) {
		t.Errorf("no %q in\n%s", want, text)
	}
}

func TestWhatBecameOfALockIsShown(t *testing.T) {
	for _, test := range []struct{ fields, want string }{
		{`"expires_at":1771416030000,"state":"held"}`, "  lock job-17 holds 20 messages for seat-1, expires in 30 s (2026-02-18 12:00)\n"},
		{`"expires_at":1771416030000,"state":"released"},"value":0,"draws":[],"forfeited":[]`, "  lock job-17 released, it held 20 messages for seat-1\n  answered"},
		{
			`"expires_at":1771416030000,"state":"released"},"value":0,"draws":[],"forfeited":[{"feature_id":"messages","value":4},{"feature_id":"credits","value":0.5}]`,
			"it held 20 messages for seat-1\n  4 messages did not come back: what they were taken from has been reset since, or is gone\n  0.5 credits did not come back",
		},
		{
			`"expires_at":1771416030000,"state":"confirmed"},"value":12,"draws":[{"feature_id":"messages","value":7,"remaining":0},{"feature_id":"credits","value":0.5,"remaining":9}],"forfeited":[]`,
			"  lock job-17 confirmed, 12 spent, it held 20 messages for seat-1\n  took 7 messages (0 left) + 0.5 credits (9 left)\n",
		},
		{`"expires_at":1771416030000,"state":"confirmed"},"value":0,"draws":[]`, "confirmed, 0 spent, it held 20 messages for seat-1\n  took nothing\n"},
		{`"expires_at":1771416030000,"state":"confirmed"}`, "  lock job-17 confirmed, it held 20 messages for seat-1\n  answered"}, // lock.get
		{`"expires_at":1771415970000,"state":"expired"}`, "  lock job-17 expired at 2026-02-18 11:59, it held 20 messages for seat-1\n"},
	} {
		text := shownCommand(t, `{"ok":true,"lock":{"lock_id":"job-17","feature_id":"messages","entity_id":"seat-1","value":20,`+test.fields+`}`)
		if !strings.Contains(text, test.want) {
			t.Errorf("%s: no %q in\n%s", test.fields, test.want, text)
		}
	}
}

func TestTheLocksOfACustomerAreListed(t *testing.T) {
	lock := func(id string, entity string) string {
		return fmt.Sprintf(`{"lock_id":%q,"feature_id":"messages","entity_id":%s,"value":20,"expires_at":1771416900000,"state":"held"}`, id, entity)
	}
	answer := func(locks ...string) string {
		return `{"ok":true,"customer":{"name":"Acme"},"balances":{},"locks":[` + strings.Join(locks, ",") + `]}`
	}
	text := shownCommand(t, answer(lock("a-long-one", "null"), lock("ü", `"seat-1"`)))
	const want = "\n  locks\n    a-long-one  20 messages, expires in 15 min (2026-02-18 12:15)\n    ü           20 messages for seat-1, expires in 15 min (2026-02-18 12:15)\n"
	if !strings.Contains(text, want) {
		t.Errorf("no %q in\n%s", want, text)
	}
	if text := shownCommand(t, answer()); strings.Contains(text, "locks") {
		t.Errorf("there are none, but\n%s", text)
	}
	var many []string
	for n := range mostLocks + 3 {
		many = append(many, lock(fmt.Sprintf("job-%d", n), "null"))
	}
	if text := shownCommand(t, answer(many...)); strings.Count(text, "job-") != mostLocks || !strings.Contains(text, "… and 3 more (-o json shows all)") {
		t.Errorf("of %d:\n%s", len(many), text)
	}
}

func TestLocksAreTold(t *testing.T) {
	record := func(what, value string) string {
		return shown(t, func(p page) { p.record(what, kafka.Message{Time: noon, Value: []byte(value)}) })
	}
	for _, test := range []struct{ what, value, want string }{
		{
			"results", `{"allowed":true,"code":"included","balance":{"feature_id":"messages","remaining":50},"lock":{"lock_id":"job-17","value":20,"expires_at":7}}`,
			"50 messages left, lock job-17 holds 20\n",
		},
		{"usage", `{"id":"e","data":{"lock_id":"job-17"}}`, "e, lock job-17\n"},
		{"usage", `{"id":"e","data":{}}`, " e\n"},
	} {
		if text := record(test.what, test.value); !strings.HasSuffix(text, test.want) {
			t.Errorf("%s: %q does not end with %q", test.value, text, test.want)
		}
	}
}
