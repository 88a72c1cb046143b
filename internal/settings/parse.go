// Package settings reads the settings of both programs: flags over environment
// (TOLLGATE_…) over a YAML file (--config) over defaults. Every problem is named at
// once, with how to mend it, before anything is connected.
package settings

import (
	"fmt"
	"os"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/alecthomas/kong"
	"github.com/willabides/kongplete"
)

// EnvPrefix begins the environment variable of every flag.
const EnvPrefix = "TOLLGATE"

// Problems are what is wrong with the settings, a line each.
type Problems []string

func (p Problems) Error() string {
	what := "one setting needs mending:"
	if len(p) > 1 {
		what = fmt.Sprintf("%d settings need mending:", len(p))
	}
	return what + "\n  " + strings.Join(p, "\n  ")
}

// Add notes a problem, once.
func (p *Problems) Add(format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	for _, known := range *p {
		if known == text {
			return
		}
	}
	*p = append(*p, text)
}

// Missing notes that a flag has no value.
func (p *Problems) Missing(flag, what string) {
	p.Add("--%s is missing: %s (or %s, or %s: in the --config file)", flag, what, envOf(flag), flag)
}

func envOf(flag string) string {
	return EnvPrefix + "_" + strings.ToUpper(strings.ReplaceAll(flag, "-", "_"))
}

// Checked is a command whose settings can be wrong in ways that their types do
// not show.
type Checked interface{ Check(*Problems) }

// File is the --config flag.
type File struct {
	Config kong.ConfigFlag `placeholder:"FILE" help:"Settings file (YAML): a key for every flag, without the dashes in front." group:"General"`
}

// Parse reads args into cli, a pointer to a struct of kong commands. It fails with
// Problems. Help is printed to the process's standard output and ends it.
func Parse(cli any, args []string, options ...kong.Option) (*kong.Context, error) {
	var unparsed, problems Problems
	options = append([]kong.Option{kong.Vars{"kafka_client_id": "tollgate-worker"}}, options...)
	options = append(options,
		kong.Vars{"kafka_brokers_default": "", "log_level": "info", "console": "false"},
		kong.DefaultEnvars(EnvPrefix),
		kong.Configuration(readFile),
		kong.UsageOnError(),
		kong.ExplicitGroups(groups),
		kong.ConfigureHelp(kong.HelpOptions{Compact: true}),
		collecting(reflect.Bool, &unparsed), collecting(reflect.Int, &unparsed), collecting(reflect.Int64, &unparsed),
		collecting(reflect.Float64, &unparsed),
		kong.TypeMapper(reflect.TypeFor[time.Duration](), collector{durationMapper, &unparsed}),
	)
	parser, err := kong.New(cli, options...)
	if err != nil {
		return nil, err
	}
	if os.Getenv("COMP_LINE") != "" { // a shell asks
		kongplete.Complete(parser) // ends the program
	}
	ctx, err := parser.Parse(args)
	if err != nil {
		unparsed.Add("%v", err)
		return nil, unparsed
	}
	if command, ok := ctx.Selected().Target.Addr().Interface().(Checked); ok {
		command.Check(&problems)
	}
	if problems = unparsed.and(problems); len(problems) > 0 {
		return nil, problems
	}
	return ctx, nil
}

// and adds what is wrong with the values, but for the flags that have none because
// they could not be parsed.
func (p Problems) and(values Problems) Problems {
	all := p
	for _, problem := range values {
		flag, _, _ := strings.Cut(problem, " must")
		if !slices.ContainsFunc(p, func(known string) bool { return strings.HasPrefix(known, flag+":") }) {
			all = append(all, problem)
		}
	}
	return all
}

// groups orders the flags in --help.
var groups = []kong.Group{
	{Key: "Request", Title: "Request"},
	{Key: "Load", Title: "Load"},
	{Key: "Kafka", Title: "Kafka"},
	{Key: "Topics", Title: "Topics"},
	{Key: "Redis", Title: "Redis"},
	{Key: "Deciding", Title: "Deciding"},
	{Key: "Dev", Title: "Embedded servers"},
	{Key: "Output", Title: "Output"},
	{Key: "General", Title: "General"},
}

// collector notes what a mapper fails at and goes on, so that one run names all
// that is wrong.
type collector struct {
	kong.Mapper
	problems *Problems
}

func (c collector) Decode(ctx *kong.DecodeContext, target reflect.Value) error {
	if err := c.Mapper.Decode(ctx, target); err != nil {
		c.problems.Add("--%s: %v", ctx.Value.Name, err)
	}
	return nil
}

// boolCollector is a collector for flags that need no value.
type boolCollector struct{ collector }

func (boolCollector) IsBool() bool { return true }

func collecting(kind reflect.Kind, problems *Problems) kong.Option {
	registry := kong.NewRegistry().RegisterDefaults()
	zero := map[reflect.Kind]any{reflect.Bool: false, reflect.Int: 0, reflect.Int64: int64(0), reflect.Float64: 0.0}[kind]
	c := collector{registry.ForValue(reflect.ValueOf(zero)), problems}
	if kind == reflect.Bool {
		return kong.KindMapper(kind, boolCollector{c})
	}
	return kong.KindMapper(kind, c)
}

var durationMapper = kong.MapperFunc(func(ctx *kong.DecodeContext, target reflect.Value) error {
	var text string
	if err := ctx.Scan.PopValueInto("duration", &text); err != nil {
		return err
	}
	d, err := time.ParseDuration(text)
	if err != nil {
		return fmt.Errorf("%q is not a duration like 250ms, 5s or 24h", text)
	}
	target.SetInt(int64(d))
	return nil
})
