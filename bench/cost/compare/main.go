// Compare measures what checks cost Redis on another commit and in the present tree, in one
// run, a round here and a round there: `make bench-cost BASE=COMMIT`. It runs in the
// project's folder. What follows -- are flags of the measurement: `-- -only plain -checks 6000`.
package main

import (
	"bufio"
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
)

const (
	costFolder = "bench/cost"
	topicsFile = "topics_test.go"
)

func main() {
	base := flag.String("base", "", "the commit to compare with")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := compare(ctx, *base, flag.Args()); err != nil {
		fmt.Fprintln(os.Stderr, "compare:", err)
		os.Exit(1)
	}
}

func compare(ctx context.Context, commit string, flags []string) error {
	folder, err := os.MkdirTemp("", "tollgate-cost-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(folder) }()
	tree := filepath.Join(folder, "base")
	if err := run(ctx, ".", "git", "worktree", "add", "--detach", "--quiet", tree, commit); err != nil {
		return err
	}
	defer func() { _ = run(context.Background(), ".", "git", "worktree", "remove", "--force", tree) }()
	if err := copyCost(tree); err != nil {
		return err
	}
	var sides [2]*side
	for i, where := range []string{tree, "."} {
		name := []string{"base", "now"}[i]
		program := filepath.Join(folder, name+".test")
		if err := run(ctx, where, "go", "test", "-c", "-tags", "bench", "-o", program, "./"+costFolder); err != nil {
			return err
		}
		if sides[i], err = start(name, program, flags); err != nil {
			return err
		}
		defer sides[i].end()
	}
	for !sides[0].ended || !sides[1].ended {
		for _, s := range sides {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			if err := s.turn(); err != nil {
				return err
			}
		}
	}
	printTable(sides[0].results, sides[1].results)
	return nil
}

func run(ctx context.Context, folder, name string, args ...string) error {
	command := exec.CommandContext(ctx, name, args...)
	command.Dir, command.Stdout, command.Stderr = folder, os.Stderr, os.Stderr
	if err := command.Run(); err != nil {
		return fmt.Errorf("%s %s: %w", name, args[0], err)
	}
	return nil
}

// copyCost puts this tree's measurement into another, which keeps its own names of what
// differs between commits, if it has the measurement at all.
func copyCost(tree string) error {
	folder := filepath.Join(tree, costFolder)
	topics, err := os.ReadFile(filepath.Join(folder, topicsFile))
	if os.IsNotExist(err) {
		topics, err = os.ReadFile(filepath.Join(costFolder, "testdata", topicsFile+".txt"))
	}
	if err != nil {
		return err
	}
	if err := os.RemoveAll(folder); err != nil {
		return err
	}
	if err := os.CopyFS(folder, os.DirFS(costFolder)); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(folder, topicsFile), topics, 0o644)
}

// side is the measurement of one tree, as a process. It waits before each round until it
// is its turn.
type side struct {
	name    string
	command *exec.Cmd
	input   io.WriteCloser
	output  *bufio.Scanner
	results []result
	waiting bool
	ended   bool
}

// result is a line of the measurement.
type result struct {
	workload, unit string
	value          float64
}

var resultLine = regexp.MustCompile(`^cost: (\S+) (\w+)=([0-9.]+)$`)

func start(name, program string, flags []string) (*side, error) {
	s := &side{name: name, command: exec.Command(program, append([]string{"-test.timeout", "0", "-test.run", "^TestCost$", "-wait"}, flags...)...)}
	s.command.Stderr = os.Stderr
	var err error
	if s.input, err = s.command.StdinPipe(); err != nil {
		return nil, err
	}
	output, err := s.command.StdoutPipe()
	if err != nil {
		return nil, err
	}
	s.output = bufio.NewScanner(output)
	return s, s.command.Start()
}

// turn lets the process work until it waits again, or has ended.
func (s *side) turn() error {
	if s.ended {
		return nil
	}
	if s.waiting {
		if _, err := io.WriteString(s.input, "\n"); err != nil {
			return fmt.Errorf("%s: %w", s.name, err)
		}
	}
	for s.output.Scan() {
		line := s.output.Text()
		if line == "cost: waiting" {
			s.waiting = true
			return nil
		}
		fmt.Fprintf(os.Stderr, "%-4s  %s\n", s.name, strings.TrimPrefix(line, "cost: "))
		if found := resultLine.FindStringSubmatch(line); found != nil {
			value, _ := strconv.ParseFloat(found[3], 64)
			s.results = append(s.results, result{found[1], found[2], value})
		}
	}
	s.ended = true
	if err := s.command.Wait(); err != nil {
		return fmt.Errorf("%s: %w", s.name, err)
	}
	return nil
}

// end has the process clean up where its turn never comes again.
func (s *side) end() {
	if s.ended {
		return
	}
	_ = s.input.Close()
	for s.output.Scan() {
	}
	_ = s.command.Wait()
}

// printTable shows the results that both sides have.
func printTable(base, now []result) {
	fmt.Println("| workload | base µs | now µs | ratio |\n| --- | ---: | ---: | ---: |")
	for i := range min(len(base), len(now)) {
		b, n := base[i], now[i]
		name, digits := b.workload, 2
		if b.unit != "redis_us_per_check" {
			name, digits = name+", "+strings.ReplaceAll(b.unit, "_", " "), 0
		}
		fmt.Printf("| %s | %.*f | %.*f | %.2f |\n", name, digits, b.value, digits, n.value, n.value/b.value)
	}
}
