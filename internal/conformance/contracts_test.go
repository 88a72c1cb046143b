package conformance

import (
	"encoding/json"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"

	"tollgate/internal/balance"
	"tollgate/internal/wire"
)

const contractsFolder = "../../docs/contracts"

// contract is a JSON Schema of docs/contracts by its name.
func contract(t *testing.T, name string) *jsonschema.Schema {
	t.Helper()
	compiler := jsonschema.NewCompiler()
	compiler.AssertFormat()
	schema, err := compiler.Compile(filepath.Join(contractsFolder, name+".schema.json"))
	if err != nil {
		t.Fatal(err)
	}
	return schema
}

// contracts are those of the records that the worked examples see.
type contracts struct{ checkRequest, checkResult, command, commandResult, usageEvent *jsonschema.Schema }

func newContracts(t *testing.T) *contracts {
	t.Helper()
	return &contracts{
		contract(t, "check-request"), contract(t, "check-result"), contract(t, "command"), contract(t, "command-result"), contract(t, "usage-event"),
	}
}

func (c *contracts) hold(t *testing.T, schema *jsonschema.Schema, value []byte) {
	t.Helper()
	instance, err := jsonschema.UnmarshalJSON(strings.NewReader(string(value)))
	if err == nil {
		err = schema.Validate(instance)
	}
	if err != nil {
		t.Errorf("%s\nbreaks its contract: %v", value, err)
	}
}

// resultOf is the contract of a result.
func (c *contracts) resultOf(result any) *jsonschema.Schema {
	if _, isCommand := result.(map[string]any)["type"]; isCommand {
		return c.commandResult
	}
	return c.checkResult
}

// request holds a request against its contract, unless it was answered with invalid_request.
func (c *contracts) request(t *testing.T, request []byte, result any) {
	t.Helper()
	fields := result.(map[string]any)
	if refusal, _ := fields["error"].(map[string]any); refusal["code"] == string(balance.InvalidRequest) {
		return
	}
	if _, isCommand := fields["type"]; isCommand {
		c.hold(t, c.command, request)
	} else {
		c.hold(t, c.checkRequest, request)
	}
}

func TestTheExamplesKeepToTheirContracts(t *testing.T) {
	c := newContracts(t)
	for name, schema := range map[string]*jsonschema.Schema{
		"check-request": c.checkRequest, "check-result": c.checkResult, "command": c.command, "command-result": c.commandResult, "usage-event": c.usageEvent,
	} {
		text, err := os.ReadFile(filepath.Join(contractsFolder, "examples", name+".json"))
		if err != nil {
			t.Fatal(err)
		}
		var examples []json.RawMessage
		if err := json.Unmarshal(text, &examples); err != nil || len(examples) == 0 {
			t.Fatalf("%s: %d examples, %v", name, len(examples), err)
		}
		for _, example := range examples {
			c.hold(t, schema, example)
		}
	}
}

func TestContractsRefuse(t *testing.T) {
	c := newContracts(t)
	for _, broken := range []struct {
		schema *jsonschema.Schema
		value  string
	}{
		{c.checkRequest, `{"feature_id":"messages"}`},
		{c.checkRequest, `{"customer_id":"","feature_id":"messages"}`},
		{c.checkRequest, `{"customer_id":"acme","feature_id":"messages","required_balance":"2"}`},
		{c.checkRequest, `{"customer_id":"acme","feature_id":"messages","lock":true}`},
		{c.checkRequest, `{"customer_id":"acme","feature_id":"messages","lock":{"enabled":true,"lock_id":""}}`},
		{c.checkRequest, `{"customer_id":"acme","feature_id":"messages","lock":{"enabled":true,"overage_behavior":"some"}}`},
		{c.command, `{"type":"customer.rename","customer_id":"acme"}`},
		{c.command, `{"type":"plan.attach","customer_id":"acme"}`},
		{c.command, `{"type":"balance.grant","customer_id":"acme","feature_id":"messages","amount":-1}`},
		{c.command, `{"type":"balance.grant","customer_id":"acme","feature_id":"messages","amount":1,"balance_id":"pro/messages"}`},
		{c.command, `{"type":"balance.grant","customer_id":"acme","feature_id":"messages","amount":1,"balance_id":"auto-1"}`},
		{c.command, `{"type":"lock.finalize","customer_id":"acme","lock_id":"l"}`},
		{c.command, `{"type":"lock.finalize","customer_id":"acme","lock_id":"l","action":"settle"}`},
		{c.command, `{"type":"lock.finalize","customer_id":"acme","lock_id":"l","action":"confirm","override_value":-1}`},
		{c.command, `{"type":"lock.extend","customer_id":"acme","lock_id":"l"}`},
		{c.command, `{"type":"lock.get","customer_id":"acme"}`},
		{c.command, `{"type":"lock.expire","customer_id":"acme"}`},
		{c.checkResult, `{"request_id":"r","allowed":true,"code":"customer_not_found","customer_id":"a","feature_id":"f","evaluated_at":1,"error":{"code":"customer_not_found","message":""}}`},
		{c.commandResult, `{"request_id":"r","type":"customer.put","customer_id":"a","ok":true,"evaluated_at":1}`},
		{c.usageEvent, `{"specversion":"1.0"}`},
	} {
		instance, err := jsonschema.UnmarshalJSON(strings.NewReader(broken.value))
		if err != nil {
			t.Fatal(err)
		}
		if broken.schema.Validate(instance) == nil {
			t.Errorf("%s is taken", broken.value)
		}
	}
}

// TestTheContractsNameEveryField holds the schemas' properties against the fields of the Go
// types that records are encoded from.
func TestTheContractsNameEveryField(t *testing.T) {
	read := func(name string) map[string]any {
		text, err := os.ReadFile(filepath.Join(contractsFolder, name+".schema.json"))
		if err != nil {
			t.Fatal(err)
		}
		var schema map[string]any
		if err := json.Unmarshal(text, &schema); err != nil {
			t.Fatal(err)
		}
		return schema
	}
	at := func(schema map[string]any, path ...string) map[string]any {
		for _, name := range path {
			schema, _ = schema[name].(map[string]any)
		}
		return schema
	}
	common := at(read("common"), "$defs")
	preview := at(read("check-result"), "properties", "preview")
	plan := at(preview, "properties", "products", "items")
	event, answer := read("usage-event"), read("command-result")
	for _, record := range []struct {
		schema map[string]any
		value  any
	}{
		{read("check-result"), wire.ResultRecord{}}, {at(read("check-result"), "properties", "lock"), wire.HeldRecord{}},
		{at(common, "draws", "items"), wire.DrawRecord{}}, {at(common, "lock"), wire.LockRecord{}},
		{at(answer, "properties", "forfeited", "items"), wire.ForfeitRecord{}},
		{at(common, "pool"), wire.PoolRecord{}}, {at(common, "balance"), wire.BalanceRecord{}}, {at(common, "reset"), wire.ResetRecord{}},
		{at(common, "rollover"), wire.RolloverRecord{}}, {at(common, "itemPrice"), wire.ItemPriceRecord{}},
		{at(common, "flag"), wire.FlagRecord{}}, {at(common, "error"), wire.ErrorRecord{}},
		{preview, wire.PreviewRecord{}}, {plan, wire.PlanRecord{}}, {at(plan, "properties", "items", "items"), wire.ItemRecord{}},
		{event, wire.EventRecord{}}, {at(event, "properties", "data"), wire.UsageRecord{}},
		{at(event, "properties", "data", "properties", "deductions", "items"), wire.DeductionRecord{}},
	} {
		var named, fields, always []string
		for name := range at(record.schema, "properties") {
			named = append(named, name)
		}
		kind := reflect.TypeOf(record.value)
		for i := range kind.NumField() {
			name, option, _ := strings.Cut(kind.Field(i).Tag.Get("json"), ",")
			fields = append(fields, name)
			if option != "omitempty" {
				always = append(always, name)
			}
		}
		slices.Sort(named)
		slices.Sort(fields)
		if !slices.Equal(named, fields) {
			t.Errorf("%v: the schema names %v, the type %v", kind, named, fields)
		}
		for _, required := range record.schema["required"].([]any) {
			if !slices.Contains(always, required.(string)) {
				t.Errorf("%v: %v is required and may be left out", kind, required)
			}
		}
	}
}

// TestTheCodesAreNamed: a code that is not in the contracts would break who validates.
func TestTheCodesAreNamed(t *testing.T) {
	text, err := os.ReadFile(filepath.Join(contractsFolder, "common.schema.json"))
	if err != nil {
		t.Fatal(err)
	}
	var common struct {
		Defs struct {
			DecisionCode, ErrorCode struct{ Enum []balance.Code }
			Interval                struct{ Enum []balance.Interval }
			Lock                    struct {
				Properties struct {
					State struct{ Enum []balance.LockState }
				}
			}
		} `json:"$defs"`
	}
	if err := json.Unmarshal(text, &common); err != nil {
		t.Fatal(err)
	}
	for _, code := range balance.Codes {
		enum := common.Defs.DecisionCode.Enum
		if code.IsError() {
			enum = common.Defs.ErrorCode.Enum
		}
		if !slices.Contains(enum, code) {
			t.Errorf("%s is not named", code)
		}
	}
	if got := len(common.Defs.DecisionCode.Enum) + len(common.Defs.ErrorCode.Enum); got != len(balance.Codes) {
		t.Errorf("%d codes are named, there are %d", got, len(balance.Codes))
	}
	if !slices.Equal(common.Defs.Interval.Enum, balance.Intervals[1:]) {
		t.Errorf("intervals are %v", common.Defs.Interval.Enum)
	}
	if states := common.Defs.Lock.Properties.State.Enum; !slices.Equal(states, balance.LockStates) {
		t.Errorf("states of a lock are %v", states)
	}
}
