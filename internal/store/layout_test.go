package store

import (
	"strings"
	"testing"

	"tollgate/internal/balance"
)

// panicOf is what a function panics with, "" if it does not.
func panicOf(f func()) (text string) {
	defer func() {
		if problem := recover(); problem != nil {
			if err, isError := problem.(error); isError {
				text = err.Error()
			} else {
				text = problem.(string)
			}
		}
	}()
	f()
	return ""
}

// TestAScriptWithAMistakeInANameIsNotPutTogether is fault 18: a misspelt field was nil when it ran.
func TestAScriptWithAMistakeInANameIsNotPutTogether(t *testing.T) {
	const tables = "local B = { plan = 1, id = 2 }\nlocal LIMIT = { max = 9007199254740991 }\n"
	for _, c := range []struct{ name, text, want string }{
		{"a field that is none", tables + "return s[i + B.typo]", "there is no B.typo"},
		{"a field of another table", tables + "return s[i + B.max]", "there is no B.max"},
		{"part of a name", tables + "return s[i + B.pla]", "there is no B.pla"},
		{"more than a name", tables + "return s[i + B.plans]", "there is no B.plans"},
		{"in the other case", tables + "return s[i + B.Plan]", "there is no B.Plan"},
		{"a table that is none", tables + "return s[i + D.plan]", "there is no table for D.plan"},
		{"a table that is assigned to", tables + "B.typo = 3", "there is no B.typo"},
		{"the same table twice", tables + tables, "there are two tables B"},
	} {
		if got := panicOf(func() { writeOut(c.text) }); got != c.want {
			t.Errorf("%s: panics with %q, want %q", c.name, got, c.want)
		}
	}
	if got := writeOut(tables + "return s[i + B.plan] < LIMIT.max"); strings.TrimSpace(got) != "return s[i + 1] < 9007199254740991" {
		t.Errorf("got %q", got)
	}
	if got := panicOf(func() { assemble("no_such_script") }); !strings.Contains(got, "no_such_script") {
		t.Errorf("a script that is none: panics with %q", got)
	}
}

// TestDeclarationsComeFirst: a function may use what a later file declares.
func TestDeclarationsComeFirst(t *testing.T) {
	got := declaredFirst("local unpack = unpack\nlocal a, b = 1, 2\nlocal function f() return g() + a end\nlocal function g() return b + a end\nlocal late\nreturn f()\n")
	want := "return (function()\nlocal late\nlocal b\nlocal f\nlocal g\nlocal a\n" +
		"local unpack = unpack\na, b = 1, 2\nfunction f() return g() + a end\nfunction g() return b + a end\n\nreturn f()\n\nend)()\n"
	if got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	if got := panicOf(func() { declaredFirst("local a = 1\nlocal a = 2\n") }); got != "a is declared twice" {
		t.Errorf("panics with %q", got)
	}
}

// TestALazyLibraryIsLoadedByThoseOfItsFunctionsThatOthersUse and keeps the others to itself.
func TestALazyLibraryIsLoadedByThoseOfItsFunctionsThatOthersUse(t *testing.T) {
	group := lazyGroup{"rare", "local function used(x) return own(x) end\nlocal function own(x) return x end\n"}
	declared, loader := group.loader("return used(1)")
	if declared != "local used\n" || !strings.Contains(loader, "function used(...) load_rare() return used(...) end\n") || strings.Contains(loader, "function own(...)") {
		t.Errorf("got %q, %q", declared, loader)
	}
}

func TestAScriptThatIsPutTogetherNamesNoTable(t *testing.T) {
	for _, name := range []string{"check", "command", "forget", "succeed"} {
		text := assemble(name)
		if name := reference.FindString(text); name != "" {
			t.Errorf("%s stands in the script %s", name, name)
		}
		if found := table.FindString(text); found != "" {
			t.Errorf("%s stands in the script %s", found, name)
		}
	}
}

// TestGoReadsALayoutAsTheScriptsDescribeIt or does not start.
func TestGoReadsALayoutAsTheScriptsDescribeIt(t *testing.T) {
	for _, c := range []struct {
		name  string
		names []string
		want  string
	}{
		{"as it is", []string{"feature", "plan", "expires"}, ""},
		{"one is missing", []string{"feature", "plan"}, "layout.lua names 3 values of F, Go 2"},
		{"one is too many", []string{"feature", "plan", "expires", "more"}, "layout.lua names 3 values of F, Go 4"},
		{"in another order", []string{"plan", "feature", "expires"}, "value 1 of F is feature (1) in layout.lua, plan in Go"},
		{"another name", []string{"feature", "plan", "ends"}, "value 3 of F is expires (3) in layout.lua, ends in Go"},
	} {
		if got := panicOf(func() { inOrder("F", c.names...) }); got != c.want {
			t.Errorf("%s: panics with %q, want %q", c.name, got, c.want)
		}
	}
	for _, name := range []string{"typo", "x"} {
		if got := panicOf(func() { number("ASKED", name) }); got != "layout.lua has no ASKED."+name {
			t.Errorf("panics with %q", got)
		}
	}
	if got := panicOf(func() { inOrder("TYPO", "a") }); got == "" {
		t.Error("a layout that is none is taken")
	}
}

// TestNumbersOfTheDomainAreThoseOfTheScripts: kinds and intervals are lists in Go and tables in Lua.
func TestNumbersOfTheDomainAreThoseOfTheScripts(t *testing.T) {
	for i, kind := range balance.Kinds {
		if n := number("KIND", string(kind)); n != int64(i+1) {
			t.Errorf("%s is %d in layout.lua, %d in Go", kind, n, i+1)
		}
	}
	for i, interval := range balance.Intervals {
		name := string(interval)
		if interval == balance.NoInterval {
			name = "none"
		}
		if n := number("UNIT", name); n != int64(i) {
			t.Errorf("%s is %d in layout.lua, %d in Go", name, n, i)
		}
	}
}
