package wire

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/tidwall/gjson"

	"tollgate/internal/balance"
)

// maxEventIDBytes bounds the id of a usage event (EventID), which a lock has that was given none: the longest name of a
// topic, and three numbers.
const maxEventIDBytes = 249 + len("/2147483647/9223372036854775807@9223372036854775807")

// MaxIDBytes bounds customer, feature, entity, plan and balance ids.
const MaxIDBytes = 256

// object is a JSON object whose fields are read one by one; the first that
// breaks the rules is kept as the error. Numbers keep their text, so that no
// digit is lost on the way.
type object struct {
	fields []field // few, so that looking is faster than hashing
	err    *balance.Error
}

type field struct {
	name  string
	value gjson.Result
}

// readObject reads a record's value; ok is false where it is no JSON object.
func readObject(value []byte) (o *object, ok bool) {
	if !utf8.Valid(value) || !gjson.ValidBytes(value) {
		return nil, false
	}
	root := gjson.ParseBytes(value)
	if !root.IsObject() {
		return nil, false
	}
	o = &object{fields: make([]field, 0, 8)}
	root.ForEach(func(key, value gjson.Result) bool {
		o.fields = append(o.fields, field{key.Str, value})
		return true
	})
	return o, true
}

// get finds a field: where there are several of the name, the last. A null is as good as absent.
func (o *object) get(name string) (value gjson.Result, ok bool) {
	for i := len(o.fields) - 1; i >= 0; i-- {
		if o.fields[i].name == name {
			return o.fields[i].value, o.fields[i].value.Type != gjson.Null
		}
	}
	return value, false
}

func (o *object) fail(format string, args ...any) {
	if o.err == nil {
		o.err = &balance.Error{Code: balance.InvalidRequest, Message: fmt.Sprintf(format, args...)}
	}
}

func (o *object) has(name string) bool {
	_, ok := o.get(name)
	return ok
}

// text reads a string of at most so many bytes, "" where it is absent.
func (o *object) text(name string, most int) string {
	field, ok := o.get(name)
	if !ok {
		return ""
	}
	switch {
	case field.Type != gjson.String:
		o.fail("%s must be a string", name)
	case len(field.Str) > most:
		o.fail("%s is longer than %d bytes", name, most)
	default:
		return field.Str
	}
	return ""
}

// id reads an optional id, which must not be empty where it is given.
func (o *object) id(name string) string { return o.idOf(name, MaxIDBytes) }

// idOf reads an optional id of at most so many bytes.
func (o *object) idOf(name string, most int) string {
	id := o.text(name, most)
	if id == "" && o.has(name) {
		o.fail("%s must not be empty", name)
	}
	return id
}

func (o *object) requiredID(name string) string {
	if !o.has(name) {
		o.fail("%s is missing", name)
	}
	return o.id(name)
}

func (o *object) boolean(name string) bool {
	field, ok := o.get(name)
	if ok && !field.IsBool() {
		o.fail("%s must be true or false", name)
	}
	return ok && field.Type == gjson.True
}

// number reads a number as its text, "" where it is absent.
func (o *object) number(name string) string {
	field, ok := o.get(name)
	if !ok {
		return ""
	}
	if field.Type != gjson.Number {
		o.fail("%s must be a number", name)
		return ""
	}
	return field.Raw
}

// maxTimeMs is the end of the year 9999, the last that a time can be written with.
const maxTimeMs = 253402300799999

// timeMs reads a time in Unix milliseconds.
func (o *object) timeMs(name string) (ms int64, given bool) {
	text := o.number(name)
	if text == "" {
		return 0, false
	}
	ms, err := strconv.ParseInt(text, 10, 64)
	if err != nil || ms < 1 || ms > maxTimeMs {
		o.fail("%s must be a time in whole Unix milliseconds", name)
		return 0, false
	}
	return ms, true
}

// raw reads an object as its JSON text of at most so many bytes, without the spaces between,
// "" where it is absent.
func (o *object) raw(name string, most int) string {
	field, ok := o.get(name)
	switch {
	case !ok:
		return ""
	case !field.IsObject():
		o.fail("%s must be an object", name)
	case len(field.Raw) > most:
		o.fail("%s is larger than %d bytes", name, most)
	case !strings.ContainsAny(field.Raw, " \t\r\n"):
		return field.Raw
	default:
		var text bytes.Buffer
		_ = json.Compact(&text, []byte(field.Raw)) // the whole record is valid JSON
		return text.String()
	}
	return ""
}

// child reads a nested object; nil where it is absent. Its errors must be taken
// over with adopt.
func (o *object) child(name string) *object {
	text := o.raw(name, maxBodyBytes)
	if text == "" {
		return nil
	}
	nested, _ := readObject([]byte(text))
	return nested
}

func (o *object) adopt(name string, nested *object) {
	if nested.err != nil {
		o.fail("%s.%s", name, nested.err.Message)
	}
}
