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
	usesLine  = regexp.MustCompile(`(?m)^-- uses: (.+)$`)
	comment   = regexp.MustCompile(`--[^\n]*`)
	table     = regexp.MustCompile(`local ([A-Z]+) = \{((?:\s*\w+ = -?\d+,?)+)\s*\}\s*\n`)
	field     = regexp.MustCompile(`(\w+) = (-?\d+)`)
	reference = regexp.MustCompile(`\b([A-Z]+)\.(\w+)`)
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
func assemble(name string) string {
	var text strings.Builder
	var used []string
	var add func(path string)
	add = func(path string) {
		if slices.Contains(used, path) {
			return
		}
		used = append(used, path)
		source := mustRead("scripts/" + path + ".lua")
		for _, line := range usesLine.FindAllStringSubmatch(source, -1) {
			for _, library := range strings.Fields(line[1]) {
				if !strings.Contains(library, "/") {
					library = "lib/" + library
				}
				add(library)
			}
		}
		text.WriteString(comment.ReplaceAllString(source, "") + "\n")
	}
	add(name)
	return writeOut(text.String())
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
