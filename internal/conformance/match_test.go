package conformance

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"tollgate/internal/balance"
)

// mismatches says how got fails to contain want: every key of an object with its
// value, a list of the same length, numbers by their exact value.
func mismatches(path string, want, got any) []string {
	switch want := want.(type) {
	case map[string]any:
		object, ok := got.(map[string]any)
		if !ok {
			return []string{fmt.Sprintf("%s: want an object, got %v", path, show(got))}
		}
		var all []string
		for _, key := range sortedKeys(want) {
			value, there := object[key]
			if !there {
				all = append(all, fmt.Sprintf("%s.%s is missing", path, key))
				continue
			}
			all = append(all, mismatches(path+"."+key, want[key], value)...)
		}
		return all
	case []any:
		list, ok := got.([]any)
		if !ok || len(list) != len(want) {
			return []string{fmt.Sprintf("%s: want %d elements, got %v", path, len(want), show(got))}
		}
		var all []string
		for i := range want {
			all = append(all, mismatches(fmt.Sprintf("%s[%d]", path, i), want[i], list[i])...)
		}
		return all
	case json.Number:
		number, ok := got.(json.Number)
		if ok && sameNumber(want, number) {
			return nil
		}
	default:
		if want == got {
			return nil
		}
	}
	return []string{fmt.Sprintf("%s: want %v, got %v", path, show(want), show(got))}
}

func sameNumber(a, b json.Number) bool {
	x, xErr := balance.ParseDecimal(string(a))
	y, yErr := balance.ParseDecimal(string(b))
	return xErr == nil && yErr == nil && x == y
}

func show(v any) string {
	text, _ := json.Marshal(v)
	return string(text)
}

func sortedKeys(object map[string]any) []string {
	keys := make([]string, 0, len(object))
	for key := range object {
		keys = append(keys, key)
	}
	slices.Sort(keys)
	return keys
}

func decodeJSON(text []byte) (any, error) {
	decoder := json.NewDecoder(strings.NewReader(string(text)))
	decoder.UseNumber()
	var v any
	return v, decoder.Decode(&v)
}
