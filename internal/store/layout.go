package store

import (
	"fmt"
	"slices"
	"strconv"
)

// The layouts that Go shares with the scripts are described in scripts/lib/layout.lua, and read from
// there. Go writes and reads the values of a layout in the order of its names; inOrder holds the names
// that Go's code goes by against the description.

var layouts = tablesOf(comment.ReplaceAllString(mustRead("scripts/lib/layout.lua"), ""))

// inOrder says how many values a layout has. It panics, at the start of the program, unless the layout
// has just these names, numbered from 1.
func inOrder(layout string, names ...string) int {
	described := slices.DeleteFunc(slices.Clone(layouts[layout]), func(f tableField) bool { return f.name == "size" })
	if len(described) != len(names) {
		panic(fmt.Sprintf("layout.lua names %d values of %s, Go %d", len(described), layout, len(names)))
	}
	for i, name := range names {
		if described[i].name != name || described[i].number != strconv.Itoa(i+1) {
			panic(fmt.Sprintf("value %d of %s is %s (%s) in layout.lua, %s in Go", i+1, layout, described[i].name, described[i].number, name))
		}
	}
	return len(names)
}

// number is a number that a table of layout.lua names.
func number(layout, name string) int64 {
	for _, f := range layouts[layout] {
		if f.name == name {
			n, err := strconv.ParseInt(f.number, 10, 64)
			if err != nil {
				panic(err)
			}
			return n
		}
	}
	panic(fmt.Sprintf("layout.lua has no %s.%s", layout, name))
}
