package main

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/csv"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io/fs"
	"maps"
	"os"
	"slices"
	"strings"
)

// importedCustomer is a line of an import.
type importedCustomer struct {
	CustomerID string           `json:"customer_id"`
	Name       string           `json:"name"`
	Email      string           `json:"email"`
	Metadata   json.RawMessage  `json:"metadata"`
	Plans      []importedPlan   `json:"plans"`
	Entities   []map[string]any `json:"entities"`
	Grants     []map[string]any `json:"grants"`
}

// importedPlan is a plan's id, or a plan.attach without its type.
type importedPlan map[string]any

func (p *importedPlan) UnmarshalJSON(text []byte) error {
	*p = importedPlan{}
	if text[0] == '"' {
		var id string
		err := json.Unmarshal(text, &id)
		(*p)["plan_id"] = id
		return err
	}
	return unmarshalExactly(text, (*map[string]any)(p))
}

// unmarshalExactly reads JSON with its numbers as they are written.
func unmarshalExactly(text []byte, into any) error {
	decoder := json.NewDecoder(bytes.NewReader(text))
	decoder.UseNumber()
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(into); err != nil {
		return err
	}
	if decoder.More() {
		return errors.New("there is something behind the object")
	}
	return nil
}

// commands are what makes the customer, in their order.
func (c *importedCustomer) commands() []map[string]any {
	put := map[string]any{}
	setText(put, "name", c.Name)
	setText(put, "email", c.Email)
	if len(c.Metadata) > 0 {
		put["metadata"] = c.Metadata
	}
	all := []map[string]any{c.command("customer.put", put)}
	for _, plan := range c.Plans {
		all = append(all, c.command("plan.attach", plan))
	}
	for _, entity := range c.Entities {
		all = append(all, c.command("entity.create", entity))
	}
	for _, grant := range c.Grants {
		all = append(all, c.command("balance.grant", grant))
	}
	return all
}

func (c *importedCustomer) command(kind string, fields map[string]any) map[string]any {
	command := map[string]any{}
	maps.Copy(command, fields) // which may be null
	command["type"], command["customer_id"] = kind, c.CustomerID
	return command
}

// source is a file with a customer a line.
type source struct {
	file    *os.File
	size    int64
	scanner *bufio.Scanner
	parse   func(line []byte) (*importedCustomer, error)
	line    int // that was read last, counted from 1
	bytes   int64
	last    [sha256.Size]byte // digest of that line
	all     hash.Hash         // of all lines so far
}

var errEmptyLine = errors.New("an empty line")

// formatOf is how a file's lines are read, nil where its name does not say.
func formatOf(path string) func(*source) error {
	switch {
	case strings.HasSuffix(path, ".csv"):
		return (*source).readHeader
	case strings.HasSuffix(path, ".jsonl"), strings.HasSuffix(path, ".ndjson"):
		return func(s *source) error { s.parse = parseJSONLine; return nil }
	}
	return nil
}

func openImport(path string) (*source, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	s := &source{file: file, scanner: bufio.NewScanner(file), all: sha256.New()}
	s.scanner.Buffer(nil, maxLineBytes)
	info, err := file.Stat()
	if err == nil {
		s.size = info.Size()
		err = formatOf(path)(s)
	}
	if err != nil {
		_ = file.Close()
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return s, nil
}

func (s *source) Close() error { return s.file.Close() }

func (s *source) read() int64 { return min(s.bytes, s.size) }

func (s *source) lineDigest() string { return hex.EncodeToString(s.last[:12]) }

// scan reads a line.
func (s *source) scan() bool {
	if !s.scanner.Scan() {
		return false
	}
	s.line++
	s.bytes += int64(len(s.scanner.Bytes())) + 1
	s.last = sha256.Sum256(s.scanner.Bytes())
	s.all.Write(s.last[:])
	return true
}

// next reads the next customer. more is false at the end of the file, and with an error where
// it cannot be read on.
func (s *source) next() (customer *importedCustomer, more bool, err error) {
	for s.scan() {
		customer, err = s.parse(bytes.TrimSpace(s.scanner.Bytes()))
		if errors.Is(err, errEmptyLine) {
			continue
		}
		if err == nil && customer.CustomerID == "" {
			err = errors.New("customer_id is missing")
		}
		return customer, true, err
	}
	if err := s.scanner.Err(); err != nil {
		return nil, false, fmt.Errorf("line %d: %w", s.line+1, err)
	}
	return nil, false, nil
}

func parseJSONLine(line []byte) (*importedCustomer, error) {
	if len(line) == 0 {
		return nil, errEmptyLine
	}
	var customer importedCustomer
	return &customer, unmarshalExactly(line, &customer)
}

var importColumns = []string{"customer_id", "name", "email", "plans"}

// readHeader reads the names of the columns of a CSV file.
func (s *source) readHeader() error {
	if !s.scan() {
		return errors.New("it is empty; the first line must name the columns: " + strings.Join(importColumns, ","))
	}
	header, err := parseCSVLine(strings.TrimPrefix(s.scanner.Text(), "\ufeff")) // as spreadsheets write it
	if err != nil {
		return err
	}
	for i, column := range header {
		if !slices.Contains(importColumns, column) || slices.Contains(header[:i], column) {
			return fmt.Errorf("column %q is not one of %s", column, strings.Join(importColumns, ", "))
		}
	}
	if !slices.Contains(header, "customer_id") {
		return errors.New("there is no column customer_id; the first line must name the columns")
	}
	s.parse = func(line []byte) (*importedCustomer, error) {
		if len(line) == 0 {
			return nil, errEmptyLine
		}
		values, err := parseCSVLine(string(line))
		if err != nil {
			return nil, err
		}
		if len(values) != len(header) {
			return nil, fmt.Errorf("%d values for %d columns", len(values), len(header))
		}
		customer := &importedCustomer{}
		for i, value := range values {
			switch header[i] {
			case "customer_id":
				customer.CustomerID = value
			case "name":
				customer.Name = value
			case "email":
				customer.Email = value
			case "plans":
				for plan := range strings.FieldsFuncSeq(value, func(r rune) bool { return r == ';' || r == ' ' }) {
					customer.Plans = append(customer.Plans, importedPlan{"plan_id": plan})
				}
			}
		}
		return customer, nil
	}
	return nil
}

// parseCSVLine reads a line; a value with a line break in it is not supported, since lines
// are what an import counts.
func parseCSVLine(line string) ([]string, error) {
	reader := csv.NewReader(strings.NewReader(line))
	reader.TrimLeadingSpace = true
	values, err := reader.Read()
	var syntax *csv.ParseError
	if errors.As(err, &syntax) {
		err = syntax.Err
	}
	return values, err
}

// progress is how far an import has come, beside its file.
type progress struct {
	file   string
	Lines  int    `json:"lines"`
	Digest string `json:"digest"` // of these lines
}

// resume skips the lines that an earlier run has done. It fails where they have changed.
func (p *progress) resume(source *source) error {
	text, err := os.ReadFile(p.file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if err := json.Unmarshal(text, p); err != nil {
		return fmt.Errorf("%s: %w; --restart begins with the first line", p.file, err)
	}
	for source.line < p.Lines && source.scan() {
	}
	if digest := hex.EncodeToString(source.all.Sum(nil)); source.line != p.Lines || digest != p.Digest {
		return fmt.Errorf("the file's first %d lines are not those that an earlier run has imported (%s); --restart begins with the first line", p.Lines, p.file)
	}
	return nil
}

// note notes that all lines so far are done.
func (p *progress) note(source *source) error {
	p.Lines, p.Digest = source.line, hex.EncodeToString(source.all.Sum(nil))
	text, err := json.Marshal(p)
	if err != nil {
		return err
	}
	// A cut-off run must not leave half a file.
	if err := os.WriteFile(p.file+".new", append(text, '\n'), 0o600); err != nil {
		return err
	}
	return os.Rename(p.file+".new", p.file)
}
