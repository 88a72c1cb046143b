package settings

import (
	"regexp"
	"time"

	"tollgate/internal/wire"
)

// Topics are the names of the topics.
type Topics struct {
	Checks         string `default:"balance.checks" help:"Check requests."`
	CheckResults   string `default:"balance.check-results" help:"Their results."`
	UsageEvents    string `default:"balance.usage-events" help:"Usage events."`
	Commands       string `default:"balance.commands" help:"Commands."`
	CommandResults string `default:"balance.command-results" help:"Their results."`
	DeadLetters    string `default:"balance.dead-letters" help:"Records that could not be read."`
}

// topicName is what Kafka takes for the name of a topic.
var topicName = regexp.MustCompile(`^[a-zA-Z0-9._-]{1,249}$`)

// CheckTopicName notes a name that no topic can have.
func CheckTopicName(flag, name string, problems *Problems) {
	if !topicName.MatchString(name) || name == "." || name == ".." {
		problems.Add("--%s: %q is no name for a topic; it may have letters, digits, '.', '_' and '-'", flag, name)
	}
}

// Check notes what is wrong.
func (t *Topics) Check(problems *Problems) {
	for _, topic := range []struct{ flag, name string }{
		{"topic-checks", t.Checks}, {"topic-check-results", t.CheckResults}, {"topic-usage-events", t.UsageEvents},
		{"topic-commands", t.Commands}, {"topic-command-results", t.CommandResults}, {"topic-dead-letters", t.DeadLetters},
	} {
		CheckTopicName(topic.flag, topic.name, problems)
		// What the worker writes must not come back to it as a question.
		for _, input := range []string{t.Checks, t.Commands} {
			if topic.name == input && topic.flag != "topic-checks" && topic.flag != "topic-commands" {
				problems.Add("--%s: %q is a topic that the worker reads; it must not write to it", topic.flag, topic.name)
			}
		}
	}
	if t.Checks == t.Commands {
		problems.Add("--topic-commands: checks and commands need topics of their own, both are %q", t.Commands)
	}
}

// Names are the names, as the worker and its tools take them.
func (t *Topics) Names() wire.Topics {
	return wire.Topics{
		Checks: t.Checks, CheckResults: t.CheckResults, UsageEvents: t.UsageEvents,
		Commands: t.Commands, CommandResults: t.CommandResults, DeadLetters: t.DeadLetters,
	}
}

// Retention is how long the topics keep records. Each has its own reason.
type Retention struct {
	Requests    time.Duration `default:"168h" help:"Checks and commands: longer than the longest time without workers, or they are gone undecided."`
	Results     time.Duration `default:"72h" help:"Results: until whoever asked has read them; a long weekend to see why something was denied."`
	UsageEvents time.Duration `default:"2160h" help:"Usage events: they are money, and billing may be away for long; also what a restored Redis is brought up to date with."`
	DeadLetters time.Duration `default:"720h" help:"Dead letters: until somebody has looked at them and sent them again."`
}

const minRetention = time.Minute

// Check notes what is wrong.
func (r *Retention) Check(problems *Problems) {
	for _, kept := range []struct {
		what string
		d    time.Duration
	}{{"requests", r.Requests}, {"results", r.Results}, {"usage-events", r.UsageEvents}, {"dead-letters", r.DeadLetters}} {
		if kept.d < minRetention {
			problems.Add("--retention-%s must be 1m or more", kept.what)
		}
	}
}
