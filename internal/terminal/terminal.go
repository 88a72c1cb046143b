// Package terminal is how the programs look: tables and colours, the latter only on
// a terminal and never with NO_COLOR.
package terminal

import (
	"io"
	"os"

	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/jedib0t/go-pretty/v6/text"
	"golang.org/x/term"
)

// Is says whether the file is a terminal.
func Is(file *os.File) bool { return term.IsTerminal(int(file.Fd())) }

// colourful says whether what is written to out may be coloured.
func colourful(out io.Writer) bool {
	file, ok := out.(*os.File)
	return ok && os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb" && Is(file)
}

// Paint colours words for an output, where it takes colours.
type Paint struct{ colours bool }

// NewPaint makes the paint for an output.
func NewPaint(out io.Writer) Paint { return Paint{colourful(out)} }

func (p Paint) with(colours text.Colors, words string) string {
	if !p.colours {
		return words
	}
	text.EnableColors()
	return colours.Sprint(words)
}

// Good is for what is as it should be.
func (p Paint) Good(words string) string { return p.with(text.Colors{text.FgGreen, text.Bold}, words) }

// Bad is for what is not.
func (p Paint) Bad(words string) string { return p.with(text.Colors{text.FgRed, text.Bold}, words) }

// Faint is for what matters less.
func (p Paint) Faint(words string) string { return p.with(text.Colors{text.Faint}, words) }

// Strong is for what matters more.
func (p Paint) Strong(words string) string { return p.with(text.Colors{text.Bold}, words) }

// NewTable makes a table without borders; the header's empty columns have no title.
func NewTable(out io.Writer, header table.Row) table.Writer {
	t := table.NewWriter()
	t.SetOutputMirror(out)
	style := table.StyleLight
	style.Options = table.OptionsNoBordersAndSeparators
	style.Options.SeparateHeader = true
	style.Format.Header = text.FormatDefault
	style.Box.PaddingLeft, style.Box.PaddingRight = "", "  "
	t.SetStyle(style)
	t.AppendHeader(header)
	return t
}
