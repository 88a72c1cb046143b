// Package architecture holds the direction in which the project's packages may import
// each other: cmd → engine → {store, stream → kafka, wire} → balance.
package architecture

import (
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

const module = "tollgate/"

// allowed is what each package may import of the project, its tests left aside.
// Programs (cmd/…) may import anything, and nobody them.
var allowed = map[string][]string{
	"deploy":                     {},
	"internal/balance":           {},
	"internal/terminal":          {},
	"internal/embedded":          {},
	"internal/retry":             {},
	"internal/kafka/recordbatch": {},
	"internal/kafka":             {"internal/kafka/recordbatch", "internal/retry"},
	"internal/stream":            {"internal/kafka", "internal/kafka/recordbatch", "internal/retry"},
	"internal/catalog":           {"internal/balance"},
	"internal/wire":              {"internal/balance"},
	"internal/store":             {"internal/balance"},
	"internal/engine":            {"internal/balance", "internal/kafka", "internal/retry", "internal/store", "internal/stream", "internal/wire"},
	"internal/ops":               {"internal/engine", "internal/kafka", "internal/stream", "internal/wire"},
	"internal/console":           {"internal/wire"},
	"internal/client":            {"internal/kafka", "internal/retry", "internal/wire"},
	"internal/access":            {},
	"internal/settings":          {"internal/access", "internal/kafka", "internal/store", "internal/wire"},
	// For measuring.
	"bench/report":       {},
	"bench/plot":         {"bench/report"},
	"bench/broker":       {"internal/embedded"},
	"bench/cost/compare": {},
	// For tests.
	"internal/servertest": {"internal/embedded", "internal/kafka"},
	"internal/realtest":   {"internal/proctest"},
	"internal/proctest": {
		"deploy", "internal/client", "internal/kafka", "internal/servertest", "internal/settings", "internal/wire",
	},
}

func TestImportsPointOneWay(t *testing.T) {
	command := exec.Command("go", "list", "-json=ImportPath,GoFiles,Imports", module+"...")
	output, err := command.Output()
	if err != nil {
		t.Fatal(err)
	}
	decoder := json.NewDecoder(strings.NewReader(string(output)))
	listed := 0
	for {
		var p struct {
			ImportPath string
			GoFiles    []string
			Imports    []string
		}
		if err := decoder.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		name := strings.TrimPrefix(p.ImportPath, module)
		if len(p.GoFiles) == 0 || strings.HasPrefix(name, "cmd/") {
			continue
		}
		listed++
		may, known := allowed[name]
		if !known {
			t.Errorf("%s has no entry; say what it may import", name)
		}
		for _, imported := range p.Imports {
			if mine, ok := strings.CutPrefix(imported, module); ok && !slices.Contains(may, mine) {
				t.Errorf("%s must not import %s", name, mine)
			}
		}
	}
	if listed != len(allowed) {
		t.Errorf("the table has %d packages, the project %d", len(allowed), listed)
	}
}
