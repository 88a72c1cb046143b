package wire

import (
	"bytes"
	"encoding/json"
	"testing"
	"unicode/utf8"
)

// FuzzMarshal holds the fast encoder against the standard library's.
func FuzzMarshal(f *testing.F) {
	f.Add("plain", `{"a":1}`, int64(5), true)
	f.Add("<&>\u2028\u2029\x00\x1f\"\\é😀", `{ "b" : [ 1, 2.50e3, "\u00e9<" ] }`, int64(-1), false)
	f.Add("", `{}`, int64(1)<<62, false)
	f.Fuzz(func(t *testing.T, text, raw string, n int64, flag bool) {
		if !utf8.ValidString(text) || !utf8.ValidString(raw) || !json.Valid([]byte(raw)) {
			return // what is not valid is refused before
		}
		var compact bytes.Buffer
		if err := json.Compact(&compact, []byte(raw)); err != nil {
			t.Fatal(err)
		}
		raw = compact.String() // as object.raw reads it
		number := number(n, 6)
		for _, value := range []any{
			ResultRecord{
				RequestID: text, Allowed: flag, CustomerID: text, EntityID: orNull(text), RequiredBalance: &number, EvaluatedAt: n,
				Balance: &PoolRecord{FeatureID: text, Granted: number, Remaining: number, Usage: number, NextResetAt: orNull(n), Breakdown: []BalanceRecord{{
					ID: text, IncludedGrant: number, PrepaidGrant: number, Remaining: number, Usage: number, Reset: &ResetRecord{Interval: text},
				}}, Rollovers: []RolloverRecord{}},
				Error: &ErrorRecord{Code: "x", Message: text},
			},
			EventRecord{ID: text, Data: UsageRecord{Value: number, Draws: []DrawRecord{{FeatureID: text, Value: number, Remaining: number}}, Properties: json.RawMessage(raw)}},
			map[string]any{text: text, "b": n, "a": flag, "z": json.RawMessage(raw), "n": nil},
		} {
			var want bytes.Buffer
			standard := json.NewEncoder(&want)
			standard.SetEscapeHTML(false)
			if err := standard.Encode(value); err != nil {
				t.Fatal(err)
			}
			if got := marshal(value); string(got)+"\n" != want.String() {
				t.Fatalf("got  %s\nwant %s", got, want.String())
			}
		}
	})
}
