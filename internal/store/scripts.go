package store

import (
	"embed"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/redis/go-redis/v9"
)

//go:embed scripts/*.lua scripts/lib/*.lua scripts/commands/*.lua
var scriptFiles embed.FS

var (
	usesLine    = regexp.MustCompile(`(?m)^-- uses: (.+)$`)
	lazyLine    = regexp.MustCompile(`(?m)^-- lazy: (\w+)$`)
	function    = regexp.MustCompile(`(?m)^local function (\w+)\(`)
	comment     = regexp.MustCompile(`--[^\n]*`)
	table       = regexp.MustCompile(`local ([A-Z]+) = \{((?:\s*\w+ = -?\d+,?)+)\s*\}\s*\n`)
	field       = regexp.MustCompile(`(\w+) = (-?\d+)`)
	declaration = regexp.MustCompile(`(?m)^local (?:function (\w+)\(|(\w+(?:, \w+)*)( = .*)?$)`)
	word        = regexp.MustCompile(`\w+`)
	reference   = regexp.MustCompile(`\b([A-Z]+)\.(\w+)`)
)

// script is one of scripts/*.lua.
type script struct {
	*redis.Script
	name, text string
}

func newScript(name string) *script {
	text := assemble(name)
	return &script{redis.NewScript(text), name, text}
}

// assemble puts scripts/<name>.lua together: the libraries that its "uses" lines name, and those that
// they use, each once; then the script itself. A name of a table that only names numbers is written
// out as the number. It panics if something does not fit together, which every start of the program
// would show.
//
// Redis runs a script from its first line for every call, and making a function takes as long as running a small
// one. So libraries with a "lazy" line are gathered in a function, one for all that have the same word there: their
// functions come to be when one of those that others use is called first.
func assemble(name string) string {
	var text strings.Builder
	var used []string
	var groups []*lazyGroup
	var add func(path string) string
	add = func(path string) string {
		if slices.Contains(used, path) {
			return ""
		}
		used = append(used, path)
		source := mustRead("scripts/" + path + ".lua")
		for _, line := range usesLine.FindAllStringSubmatch(source, -1) {
			for _, library := range strings.Fields(line[1]) {
				if !strings.Contains(library, "/") {
					library = "lib/" + library
				}
				text.WriteString(add(library))
			}
		}
		lazy := lazyLine.FindStringSubmatch(source)
		source = comment.ReplaceAllString(source, "") + "\n"
		if lazy == nil {
			return source
		}
		i := slices.IndexFunc(groups, func(g *lazyGroup) bool { return g.name == lazy[1] })
		if i < 0 {
			groups, i = append(groups, &lazyGroup{name: lazy[1]}), len(groups)
		}
		groups[i].source += source
		return ""
	}
	body := add(name)
	var declared, loaders string
	for _, group := range groups {
		others := text.String() + body
		for _, other := range groups {
			if other != group {
				others += other.source
			}
		}
		declaration, loader := group.loader(others)
		declared, loaders = declared+declaration, loaders+loader
	}
	return declaredFirst(writeOut(declared + text.String() + loaders + body))
}

// upvalues are as many as a function of Lua can have.
const upvalues = 60

// declaredFirst moves the declarations of a script to its beginning. For each function that is made Lua looks through
// the locals around it, one after the other, for those that it uses; but what the function around that one has
// from further outside it takes from there at once. So those that most functions use are declared outside a function
// that everything else is in.
func declaredFirst(text string) string {
	uses := map[string]int{}
	for _, made := range strings.Split(text, "\nlocal function ") {
		seen := map[string]bool{}
		for _, word := range word.FindAllString(made, -1) {
			if !seen[word] {
				seen[word] = true
				uses[word]++
			}
		}
	}
	var names []string
	text = declaration.ReplaceAllStringFunc(text, func(line string) string {
		found := declaration.FindStringSubmatch(line)
		if found[1] != "" {
			names = append(names, found[1])
			return "function " + found[1] + "("
		}
		declared := strings.Split(found[2], ", ")
		if slices.ContainsFunc(word.FindAllString(found[3], -1), func(w string) bool { return slices.Contains(declared, w) }) {
			return line // a global under its own name
		}
		names = append(names, declared...)
		if found[3] == "" {
			return ""
		}
		return found[2] + found[3]
	})
	slices.Sort(names)
	for i := 1; i < len(names); i++ {
		if names[i] == names[i-1] {
			panic(names[i] + " is declared twice")
		}
	}
	slices.SortStableFunc(names, func(x, y string) int { return uses[x] - uses[y] })
	inner, outer := names, []string(nil)
	if most := len(names) - upvalues; most > 0 {
		inner, outer = names[:most], names[most:]
	}
	var declared strings.Builder
	for _, name := range outer {
		declared.WriteString("local " + name + "\n")
	}
	declared.WriteString("return (function()\n")
	for _, name := range inner {
		declared.WriteString("local " + name + "\n")
	}
	return declared.String() + text + "\nend)()\n"
}

// lazyGroup are libraries whose functions come to be when they are needed.
type lazyGroup struct{ name, source string }

// loader declares those of the group's functions that others use, and makes them load the group.
func (g *lazyGroup) loader(others string) (declaration, loader string) {
	load := "load_" + g.name
	source, stubs := g.source, ""
	for _, found := range function.FindAllStringSubmatch(g.source, -1) {
		name := found[1]
		if !regexp.MustCompile(`\b` + name + `\b`).MatchString(others) {
			continue
		}
		declaration += "local " + name + "\n"
		source = strings.Replace(source, found[0], "function "+name+"(", 1)
		stubs += "function " + name + "(...) " + load + "() return " + name + "(...) end\n"
	}
	indented := " " + strings.ReplaceAll(source, "\n", "\n ") // declaredFirst looks at what is not
	return declaration, "local function " + load + "()\n" + indented + "end\n" + stubs
}

// writeOut writes the numbers out that tables name, and leaves the tables away.
func writeOut(text string) string {
	tables := tablesOf(text)
	text = table.ReplaceAllString(text, "")
	return reference.ReplaceAllStringFunc(text, func(name string) string {
		parts := reference.FindStringSubmatch(name)
		fields, known := tables[parts[1]]
		if !known {
			panic("there is no table for " + name)
		}
		for _, f := range fields {
			if f.name == parts[2] {
				return f.number
			}
		}
		panic("there is no " + name)
	})
}

// tableField is a name of a table with its number.
type tableField struct{ name, number string }

// tablesOf are the tables of a text, without its comments, that only name numbers.
func tablesOf(text string) map[string][]tableField {
	tables := map[string][]tableField{}
	for _, found := range table.FindAllStringSubmatch(text, -1) {
		if tables[found[1]] != nil {
			panic(fmt.Sprintf("there are two tables %s", found[1]))
		}
		for _, f := range field.FindAllStringSubmatch(found[2], -1) {
			tables[found[1]] = append(tables[found[1]], tableField{f[1], f[2]})
		}
	}
	return tables
}

func mustRead(path string) string {
	text, err := scriptFiles.ReadFile(path)
	if err != nil {
		panic(err)
	}
	return string(text)
}
