package wire

import (
	"bytes"
	"encoding/json"
	"unicode/utf8"

	"github.com/tidwall/gjson"
)

// readHead reads the beginning of a value whose end was not kept: the fields that are whole. If
// customer_id is not among them, the key is taken for it, since a customer's records have its id
// as their key.
func readHead(head, key []byte) *object {
	o := &object{}
	if utf8.Valid(wholeRunes(head)) {
		o.fields = headFields(head)
	}
	if !o.has("customer_id") && len(key) > 0 && len(key) <= MaxIDBytes && utf8.Valid(key) {
		o.fields = append(o.fields, field{"customer_id", gjson.Result{Type: gjson.String, Str: string(key)}})
	}
	return o
}

// headFields are the fields of the object that head begins with. A token reader tells them from
// those of nested objects.
func headFields(head []byte) (fields []field) {
	decoder := json.NewDecoder(bytes.NewReader(head))
	if begin, err := decoder.Token(); err != nil || begin != json.Delim('{') {
		return nil
	}
	for decoder.More() {
		name, err := decoder.Token()
		if err != nil {
			return fields
		}
		var value json.RawMessage
		if err := decoder.Decode(&value); err != nil {
			return fields
		}
		if decoder.InputOffset() == int64(len(head)) {
			return fields // it may go on: of 1234 only 12 may be here
		}
		fields = append(fields, field{name.(string), gjson.ParseBytes(value)})
	}
	return fields
}

// wholeRunes is head without the rune that its end cuts, if it does.
func wholeRunes(head []byte) []byte {
	for n := 1; n < utf8.UTFMax && n <= len(head); n++ {
		if last := head[len(head)-n:]; utf8.RuneStart(last[0]) {
			if !utf8.FullRune(last) {
				return head[:len(head)-n]
			}
			break
		}
	}
	return head
}
