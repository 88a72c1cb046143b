package conformance

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
)

// example is one case of a file.
type example struct {
	Name    string `yaml:"case"`
	Catalog string `yaml:"catalog"`
	Now     string `yaml:"now"`
	Steps   []step `yaml:"steps"`
	file    string
}

// step is one step of a case.
type step struct {
	Command    *value            `yaml:"command"`
	Check      *value            `yaml:"check"`
	Raw        *string           `yaml:"raw"`
	Redeliver  bool              `yaml:"redeliver"`
	Headers    map[string]string `yaml:"headers"`
	Now        string            `yaml:"now"`
	Repeat     int               `yaml:"repeat"`
	Concurrent bool              `yaml:"concurrent"`
	Expect     *value            `yaml:"expect"`
	Absent     []string          `yaml:"absent"`
	Counts     *counts           `yaml:"counts"`
	Usage      []value           `yaml:"usage"`
	DeadLetter bool              `yaml:"dead_letter"`
}

type counts struct {
	Allowed *int `yaml:"allowed"`
	Denied  *int `yaml:"denied"`
	Usage   *int `yaml:"usage"`
}

// value is a YAML value as JSON, its numbers as they were written.
type value struct{ json any }

// UnmarshalYAML takes the value as it stands in the file.
func (v *value) UnmarshalYAML(node ast.Node) (err error) {
	v.json, err = toJSON(node)
	return err
}

func toJSON(node ast.Node) (any, error) {
	switch n := node.(type) {
	case *ast.NullNode:
		return nil, nil
	case *ast.BoolNode:
		return n.Value, nil
	case *ast.StringNode:
		return n.Value, nil
	case *ast.LiteralNode:
		return n.Value.Value, nil
	case *ast.IntegerNode, *ast.FloatNode:
		return json.Number(strings.ReplaceAll(node.GetToken().Value, "_", "")), nil
	case *ast.SequenceNode:
		list := make([]any, len(n.Values))
		for i, element := range n.Values {
			converted, err := toJSON(element)
			if err != nil {
				return nil, err
			}
			list[i] = converted
		}
		return list, nil
	case *ast.MappingNode:
		object := map[string]any{}
		for _, field := range n.Values {
			converted, err := toJSON(field.Value)
			if err != nil {
				return nil, err
			}
			object[field.Key.GetToken().Value] = converted
		}
		return object, nil
	case *ast.MappingValueNode:
		converted, err := toJSON(n.Value)
		return map[string]any{n.Key.GetToken().Value: converted}, err
	}
	return nil, fmt.Errorf("line %d: a %s is no JSON value", node.GetToken().Position.Line, node.Type())
}

// numbered writes the repetition's number for {i} in all texts.
func numbered(v any, i int) any {
	switch v := v.(type) {
	case string:
		return strings.ReplaceAll(v, "{i}", fmt.Sprint(i))
	case []any:
		out := make([]any, len(v))
		for n := range v {
			out[n] = numbered(v[n], i)
		}
		return out
	case map[string]any:
		out := map[string]any{}
		for key := range v {
			out[key] = numbered(v[key], i)
		}
		return out
	}
	return v
}

// readCases reads every case of a folder, and fails on any key that is not known.
func readCases(t *testing.T, folder string) []example {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join(folder, "*.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	var all []example
	for _, path := range paths {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		var cases []example
		if isCatalog(text) {
			continue
		}
		if err := yaml.NewDecoder(bytes.NewReader(text), yaml.Strict()).Decode(&cases); err != nil {
			t.Errorf("%s: %v", path, err)
			continue
		}
		for _, c := range cases {
			c.file = strings.TrimSuffix(filepath.Base(path), ".yaml")
			all = append(all, c)
		}
	}
	return all
}

// isCatalog tells a catalogue, a mapping, from a list of cases.
func isCatalog(text []byte) bool {
	var probe map[string]any
	return yaml.Unmarshal(text, &probe) == nil
}

func clockTime(t *testing.T, text string) time.Time {
	t.Helper()
	at, err := time.Parse(time.RFC3339, text)
	if err != nil {
		t.Fatalf("now: %v", err)
	}
	return at
}
