package store

import (
	"embed"
	"fmt"
	"regexp"
	"strings"
)

//go:embed scripts/*.lua scripts/lib/*.lua
var scriptFiles embed.FS

var (
	usesLine      = regexp.MustCompile(`(?m)^-- uses: (.+)$`)
	positionTable = regexp.MustCompile(`(?s)local ([A-Z]+) = (\{(?:\s*\w+ = \d+,?(?:\s*--[^\n]*)?)+\s*\})\n`)
	position      = regexp.MustCompile(`(\w+) = (\d+)`)
	comment       = regexp.MustCompile(`--[^\n]*`)
	reference     = regexp.MustCompile(`\b[A-Z]+\.\w+`)
)

// mustText assembles scripts/<name>.lua: the libraries that its "uses" line
// names, then the script itself. It panics where a file does not fit together, which every
// start of the program would show.
func mustText(name string) string {
	main := mustRead("scripts/" + name + ".lua")
	uses := usesLine.FindStringSubmatch(main)
	if uses == nil {
		panic(fmt.Sprintf("scripts/%s.lua has no line '-- uses: ...'", name))
	}
	var text strings.Builder
	for _, library := range strings.Fields(uses[1]) {
		text.WriteString(mustRead("scripts/lib/" + library + ".lua"))
	}
	text.WriteString(main)
	return text.String()
}

// writeOutPositions writes out tables that only name numbers as those numbers, so that a name
// costs nothing at run time.
func writeOutPositions(text string) string {
	positions := map[string]string{}
	text = positionTable.ReplaceAllStringFunc(text, func(table string) string {
		parts := positionTable.FindStringSubmatch(table)
		for _, field := range position.FindAllStringSubmatch(comment.ReplaceAllString(parts[2], ""), -1) {
			positions[parts[1]+"."+field[1]] = field[2]
		}
		return ""
	})
	return reference.ReplaceAllStringFunc(text, func(name string) string {
		if number, ok := positions[name]; ok {
			return number
		}
		return name
	})
}

func mustRead(path string) string {
	text, err := scriptFiles.ReadFile(path)
	if err != nil {
		panic(err)
	}
	return string(text)
}
