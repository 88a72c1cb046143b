package catalog

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/goccy/go-yaml/ast"

	"tollgate/internal/balance"
)

// Problem is one thing wrong with a catalogue, at its line.
type Problem struct {
	Line    int
	Message string
}

// Problems is the error of a catalogue that is not valid: all that is wrong.
type Problems []Problem

func (p Problems) Error() string {
	lines := make([]string, len(p))
	for i, problem := range p {
		lines[i] = fmt.Sprintf("line %d: %s", problem.Line, problem.Message)
	}
	return strings.Join(lines, "\n")
}

// reader turns YAML nodes into values and collects what is wrong with them.
type reader struct{ problems Problems }

func (r *reader) problem(at ast.Node, format string, args ...any) {
	line := 1
	if at != nil && at.GetToken() != nil {
		line = at.GetToken().Position.Line
	}
	r.problems = append(r.problems, Problem{line, fmt.Sprintf(format, args...)})
}

// fields is a YAML mapping, by key.
type fields struct {
	r     *reader
	node  ast.Node
	where string
	byKey map[string]ast.Node
}

// mapping reads a mapping and complains about keys that are not known.
func (r *reader) mapping(node ast.Node, where string, known ...string) fields {
	f := fields{r: r, node: node, where: where, byKey: map[string]ast.Node{}}
	var values []*ast.MappingValueNode
	switch n := node.(type) {
	case *ast.MappingNode:
		values = n.Values
	case *ast.MappingValueNode:
		values = []*ast.MappingValueNode{n}
	default:
		r.problem(node, "%s must be a mapping (key: value)", where)
		return f
	}
	for _, value := range values {
		key := value.Key.GetToken().Value
		if !slices.Contains(known, key) {
			r.problem(value.Key, "%s has no key %q; it may have %s", where, key, strings.Join(known, ", "))
			continue
		}
		if value.Value.Type() != ast.NullType {
			f.byKey[key] = value.Value
		}
	}
	return f
}

func (f fields) has(key string) bool { return f.byKey[key] != nil }

// at is the node of a key, or of the mapping where it is missing.
func (f fields) at(key string) ast.Node {
	if node := f.byKey[key]; node != nil {
		return node
	}
	return f.node
}

func (f fields) problem(key, format string, args ...any) {
	f.r.problem(f.at(key), "%s: %s", f.where, fmt.Sprintf(format, args...))
}

func (f fields) text(key string) string {
	node := f.byKey[key]
	if node == nil {
		return ""
	}
	text, ok := node.(*ast.StringNode)
	if !ok {
		f.problem(key, "%s must be a text; put it in quotes", key)
		return ""
	}
	return text.Value
}

func (f fields) required(key string) string {
	text := f.text(key)
	if !f.has(key) || (text == "" && f.byKey[key].Type() == ast.StringType) {
		f.problem(key, "%s is missing", key)
	}
	return text
}

func (f fields) oneOf(key string, allowed ...string) string {
	text := f.text(key)
	if f.has(key) && !slices.Contains(allowed, text) {
		f.problem(key, "%s must be one of %s", key, strings.Join(allowed, ", "))
		return ""
	}
	return text
}

func (f fields) boolean(key string, absent bool) bool {
	node := f.byKey[key]
	if node == nil {
		return absent
	}
	value, ok := node.(*ast.BoolNode)
	if !ok {
		f.problem(key, "%s must be true or false", key)
		return absent
	}
	return value.Value
}

// decimal reads the number's text, so that no digit is lost on the way.
func (f fields) decimal(key string) (balance.Decimal, bool) {
	node := f.byKey[key]
	if node == nil {
		return balance.Decimal{}, false
	}
	switch node.(type) {
	case *ast.IntegerNode, *ast.FloatNode:
		d, err := balance.ParseDecimal(node.GetToken().Value)
		if err == nil && len(d.Digits) <= 18 && d.Exponent >= -18 && d.Exponent <= 18 {
			return d, true
		}
	}
	f.problem(key, "%s must be a decimal number", key)
	return balance.Decimal{}, false
}

// whole reads a whole number between two bounds.
func (f fields) whole(key string, least, most, absent int) int {
	node := f.byKey[key]
	if node == nil {
		return absent
	}
	n, err := strconv.Atoi(node.GetToken().Value)
	if _, isInteger := node.(*ast.IntegerNode); !isInteger || err != nil || n < least || n > most {
		f.problem(key, "%s must be a whole number from %d to %d", key, least, most)
		return absent
	}
	return n
}

// units reads an amount of a feature, at least 0.
func (f fields) units(key string, feature *balance.Feature) int64 {
	d, ok := f.decimal(key)
	if !ok {
		return 0
	}
	if d.Negative {
		f.problem(key, "%s must not be negative", key)
		return 0
	}
	units, err := d.Units(feature.Precision)
	if err != nil {
		f.problem(key, "%s: %v (%s has precision %d)", key, err, feature.ID, feature.Precision)
	}
	return units
}

func (f fields) list(key string) []ast.Node {
	node := f.byKey[key]
	if node == nil {
		return nil
	}
	list, ok := node.(*ast.SequenceNode)
	if !ok {
		f.problem(key, "%s must be a list", key)
		return nil
	}
	return list.Values
}
