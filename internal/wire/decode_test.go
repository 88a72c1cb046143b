package wire

import (
	"encoding/json"
	"errors"
	"reflect"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/segmentio/kafka-go"

	"tollgate/internal/balance"
)

func TestACheckIsReadFieldByField(t *testing.T) {
	got, err := DecodeCheck([]byte(`{"customer_id":"c","feature_id":"f","entity_id":"e","required_balance":-1.50e1,
		"properties":{"a": 1.10},"send_event":true,"with_preview":true,"lock":{"enabled":true,"lock_id":"l","expires_at":7,"overage_behavior":"cap"},"more":[]}`), nil)
	want := Check{
		CustomerID: "c", FeatureID: "f", EntityID: "e", Required: "-1.50e1", Properties: `{"a":1.10}`,
		SendEvent: true, WithPreview: true, Lock: LockRequest{true, "l", 7, "cap"},
	}
	if err != nil || got != want {
		t.Errorf("got %+v, %v", got, err)
	}
}

func TestNullIsAsGoodAsAbsent(t *testing.T) {
	got, err := DecodeCheck([]byte(`{"customer_id":"c","feature_id":"f","entity_id":null,"required_balance":null,"properties":null,"send_event":null,"with_preview":null,"lock":null}`), nil)
	if want := (Check{CustomerID: "c", FeatureID: "f", Required: "1"}); err != nil || got != want {
		t.Errorf("got %+v, %v", got, err)
	}
}

func TestWhatBreaksTheRulesOfACheck(t *testing.T) {
	long := strings.Repeat("x", MaxIDBytes+1)
	for _, c := range []struct{ body, problem string }{
		{`{"customer_id":"c"}`, "feature_id is missing"},
		{`{"customer_id":"c","feature_id":""}`, "feature_id must not be empty"},
		{`{"customer_id":"c","feature_id":"` + long + `"}`, "feature_id is longer than 256 bytes"},
		{`{"customer_id":"c","feature_id":1}`, "feature_id must be a string"},
		{`{"customer_id":"c","feature_id":"f","entity_id":""}`, "entity_id must not be empty"},
		{`{"customer_id":"c","feature_id":"f","required_balance":"3"}`, "required_balance must be a number"},
		{`{"customer_id":"c","feature_id":"f","send_event":"yes"}`, "send_event must be true or false"},
		{`{"customer_id":"c","feature_id":"f","with_preview":1}`, "with_preview must be true or false"},
		{`{"customer_id":"c","feature_id":"f","properties":[]}`, "properties must be an object"},
		{`{"customer_id":"c","feature_id":"f","properties":{"a":"` + strings.Repeat("x", maxPropertiesBytes) + `"}}`, "properties is larger than 16384 bytes"},
		{`{"customer_id":"c","feature_id":"f","lock":{"enabled":1}}`, "lock.enabled must be true or false"},
		{`{"customer_id":"c","feature_id":"f","padding":"` + strings.Repeat("x", maxBodyBytes) + `"}`, "the record is larger than 65536 bytes"},
	} {
		check, err := DecodeCheck([]byte(c.body), nil)
		var refusal *balance.Error
		if !errors.As(err, &refusal) || refusal.Code != balance.InvalidRequest || refusal.Message != c.problem || check.CustomerID != "c" {
			t.Errorf("%.80s: got %+v, %v; want %s", c.body, check, err, c.problem)
		}
	}
}

func TestWhatCannotBeAnsweredToAnyCustomer(t *testing.T) {
	for _, body := range []string{
		"", "null", "[]", `"text"`, "{", `{"customer_id":"c"} x`, "{\"customer_id\":\"\xff\",\"feature_id\":\"f\"}",
		`{"feature_id":"f"}`, `{"customer_id":""}`, `{"customer_id":null}`, `{"customer_id":7}`,
		`{"customer_id":"` + strings.Repeat("x", MaxIDBytes+1) + `"}`,
	} {
		for name, decode := range map[string]func([]byte) error{
			"check":   func(b []byte) error { _, err := DecodeCheck(b, []byte("key")); return err },
			"command": func(b []byte) error { _, err := DecodeCommand(b, []byte("key")); return err },
		} {
			var unreadable *Unreadable
			if err := decode([]byte(body)); !errors.As(err, &unreadable) {
				t.Errorf("%s %.60q: got %v", name, body, err)
			}
		}
	}
}

func TestTheLastOfTwoFieldsOfOneNameCounts(t *testing.T) {
	check, err := DecodeCheck([]byte(`{"customer_id":"a","feature_id":"f","customer_id":"b","required_balance":2,"required_balance":null}`), nil)
	if err != nil || check.CustomerID != "b" || check.Required != "1" {
		t.Errorf("got %+v, %v", check, err)
	}
}

func TestACommandIsReadFieldByField(t *testing.T) {
	got, err := DecodeCommand([]byte(`{"type":"t","customer_id":"c","entity_id":"e","feature_id":"f","plan_id":"p","balance_id":"b","event_name":"n",
		"name":"N","email":"E","metadata":{"k":[1]},"quantities":{"x":3,"y":null},"starts_at":5,"expires_at":6,"amount":0.10,"unlimited":true,
		"reset":{"interval":"week","interval_count":2},"remaining":1,"usage":2,"add":-3,"value":4,"properties":{},"overage_behavior":"cap"}`), nil)
	want := Command{
		Type: "t", CustomerID: "c", EntityID: "e", FeatureID: "f", PlanID: "p", BalanceID: "b", EventName: "n",
		Name: "N", Email: "E", Metadata: `{"k":[1]}`, Quantities: map[string]string{"x": "3"}, StartsAtMs: 5, ExpiresAtMs: 6,
		Amount: "0.10", Unlimited: true, Reset: balance.Reset{Interval: balance.Week, Count: 2}, Remaining: "1", Usage: "2", Add: "-3",
		Value: "4", Properties: "{}", OverageBehavior: "cap",
	}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, %v", got, err)
	}
}

func TestWhatBreaksTheRulesOfACommand(t *testing.T) {
	for _, c := range []struct{ fields, problem string }{
		{`"amount":1`, "type is missing"},
		{`"type":"t","starts_at":1.5`, "starts_at must be a time in whole Unix milliseconds"},
		{`"type":"t","expires_at":-1`, "expires_at must be a time in whole Unix milliseconds"},
		{`"type":"t","reset":{"interval":"fortnight"}`, "reset.interval must be one of [minute hour day week month quarter semi_annual year one_off]"},
		{`"type":"t","reset":{"interval":"day","interval_count":0}`, "reset.interval_count must be a whole number from 1 to 1000"},
		{`"type":"t","quantities":{"f":"2"}`, "quantities.f must be a number"},
		{`"type":"t","metadata":"x"`, "metadata must be an object"},
	} {
		_, err := DecodeCommand([]byte(`{"customer_id":"c",`+c.fields+`}`), nil)
		var refusal *balance.Error
		if !errors.As(err, &refusal) || refusal.Message != c.problem {
			t.Errorf("%s: got %v, want %s", c.fields, err, c.problem)
		}
	}
}

func TestHeadersThatBreakTheRules(t *testing.T) {
	for _, header := range []kafka.Header{
		{Key: HeaderExpiresAt, Value: []byte("soon")}, {Key: HeaderExpiresAt, Value: []byte("-4")},
		{Key: HeaderIdempotencyKey, Value: []byte(strings.Repeat("k", 257))}, {Key: "kafka_replyPartition", Value: []byte("3")},
	} {
		record := kafka.Message{Topic: "t", Partition: 2, Offset: 9, Headers: []kafka.Header{header}}
		headers, err := DecodeHeaders(&record)
		if err == nil || !strings.Contains(err.Message, header.Key) || headers.RequestID != "t/2/9" {
			t.Errorf("%s: got %+v, %v", header.Key, headers, err)
		}
	}
}

func TestADeadLetterIsTheRecordByteForByte(t *testing.T) {
	record := kafka.Message{
		Topic: "checks", Partition: 3, Offset: 42, Key: []byte{0, 0xff}, Value: []byte("{\x00"),
		Headers: []kafka.Header{{Key: "h", Value: []byte{1, 2}}, {Key: "h", Value: nil}},
	}
	dead := DeadLetter("dead", &record, "why", 7)
	if dead.Topic != "dead" || string(dead.Key) != string(record.Key) || string(dead.Value) != string(record.Value) || !reflect.DeepEqual(dead.Headers[:2], record.Headers) {
		t.Errorf("got %+v", dead)
	}
	want := map[string]string{HeaderDeadReason: "why", HeaderDeadTopic: "checks", HeaderDeadPartition: "3", HeaderDeadOffset: "42", HeaderDeadTime: "7"}
	for _, header := range dead.Headers[2:] {
		if want[header.Key] != string(header.Value) {
			t.Errorf("%s: %s", header.Key, header.Value)
		}
		delete(want, header.Key)
	}
	if len(want) > 0 {
		t.Errorf("missing: %v", want)
	}
	again := DeadLetter("dead", &dead, "twice", 8)
	revived, reason, err := Revived(&again)
	if err != nil || reason != "twice" || revived.Topic != "dead" || !reflect.DeepEqual(revived.Headers, dead.Headers) {
		t.Errorf("got %+v, %s, %v", revived, reason, err)
	}
	revived, reason, err = Revived(&dead)
	if err != nil || reason != "why" || revived.Topic != "checks" || revived.Partition != 3 || !reflect.DeepEqual(revived.Headers, record.Headers) ||
		string(revived.Key) != string(record.Key) || string(revived.Value) != string(record.Value) {
		t.Errorf("got %+v, %s, %v", revived, reason, err)
	}
	if _, _, err := Revived(&record); err == nil {
		t.Error("a record that is no dead letter was revived")
	}
}

// FuzzDecode: whatever comes, a request is decoded, refused or a dead letter, and what
// is decoded can be written again.
func FuzzDecode(f *testing.F) {
	for _, seed := range []string{
		`{"customer_id":"c","feature_id":"f","required_balance":1e400,"properties":{"a":"\ud800"}}`,
		`{"type":"plan.attach","customer_id":"c","quantities":{"f":1},"reset":{"interval":"day"}}`, "{", "[]", `{"customer_id":"c","lock":{}}`,
	} {
		f.Add([]byte(seed), "request-id", []byte("id"))
	}
	f.Add([]byte("{}"), "kafka_replyPartition", []byte{0, 0, 0, 1})
	f.Add([]byte("{}"), "expires-at", []byte("99999999999999999999"))
	f.Add(headOf(`{"customer_id":"c","padding":"`), "", []byte("id"))
	catalog := balance.NewCatalog("v", []balance.Feature{{ID: "f", Type: balance.Metered}}, nil)
	f.Fuzz(func(t *testing.T, value []byte, headerKey string, headerValue []byte) {
		record := kafka.Message{Topic: "t", Value: value, Headers: []kafka.Header{{Key: headerKey, Value: headerValue}}}
		headers, _ := DecodeHeaders(&record)
		check, err := DecodeCheck(value, record.Key)
		if err == nil && (check.CustomerID == "" || check.FeatureID == "" || !utf8.ValidString(check.CustomerID)) {
			t.Fatalf("decoded %+v", check)
		}
		if err == nil && check.Properties != "" && !json.Valid([]byte(check.Properties)) {
			t.Fatalf("properties are no JSON: %s", check.Properties)
		}
		result := Result{RequestID: headers.RequestID, Code: balance.InvalidRequest, CustomerID: check.CustomerID, FeatureID: check.FeatureID, Error: balance.NewError(balance.InvalidRequest)}
		if message := result.Encode(catalog, "r", &headers, record.Key); !json.Valid(message.Value) {
			t.Fatalf("the result is no JSON: %s", message.Value)
		}
		command, err := DecodeCommand(value, record.Key)
		if err == nil && (command.Type == "" || command.CustomerID == "") {
			t.Fatalf("decoded %+v", command)
		}
	})
}
