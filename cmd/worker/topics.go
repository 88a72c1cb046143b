package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/jedib0t/go-pretty/v6/table"

	"tollgate/internal/kafka"
	"tollgate/internal/settings"
	"tollgate/internal/terminal"
)

type topicsCommand struct {
	Create topicsCreateCommand `cmd:"" help:"Create the topics that are missing, and say how those that exist differ."`
}

type topicsCreateCommand struct {
	Kafka             settings.Kafka     `embed:"" prefix:"kafka-" group:"Kafka"`
	Topics            settings.Topics    `embed:"" prefix:"topic-" group:"Topics"`
	Partitions        int                `default:"12" group:"Topics" help:"Partitions of each topic; requests and results must have the same number."`
	ReplicationFactor int                `default:"3" group:"Topics" help:"Copies of each partition, each on a broker of its own."`
	MinInsyncReplicas int                `placeholder:"N" group:"Topics" help:"Copies that must have a record before it counts as written; 2 if there are three or more, else 1."`
	Retention         settings.Retention `embed:"" prefix:"retention-" group:"Topics"`
	Output            string             `short:"o" default:"text" enum:"text,json" group:"Output" help:"text or json."`
}

// Check notes what is wrong with the settings.
func (c *topicsCreateCommand) Check(problems *settings.Problems) {
	c.Kafka.Check(problems)
	c.Topics.Check(problems)
	c.Retention.Check(problems)
	if c.Partitions < 1 {
		problems.Add("--partitions must be 1 or more")
	}
	if c.ReplicationFactor < 1 {
		problems.Add("--replication-factor must be 1 or more")
	}
	if c.MinInsyncReplicas < 0 || c.MinInsyncReplicas > c.ReplicationFactor {
		problems.Add("--min-insync-replicas must be from 1 to --replication-factor (%d): nothing could be written", c.ReplicationFactor)
	}
}

const (
	// requestBytes is Kafka's own default. Requests are far smaller (64 KiB); larger records are
	// to be refused to their sender, not fetched by a worker.
	requestBytes = 1_048_588
	// deadLetterBytes has room for any request and the headers that say why it is there.
	deadLetterBytes = 2 * requestBytes
)

// topics are the topics as they should be, and why each keeps its records for so long.
func (c *topicsCreateCommand) topics() []kafka.Topic {
	const (
		forRequests    = "records that are older are gone undecided if the workers were away that long"
		forResults     = "until whoever asked has read them"
		forUsageEvents = "they are money, and billing may be away for long"
		forDeadLetters = "until somebody has looked at them"
	)
	minInsync := 1
	if c.ReplicationFactor >= 3 {
		minInsync = 2
	}
	names, kept := c.Topics.Names(), c.Retention
	all := []kafka.Topic{
		{Name: names.Checks, Retention: kept.Requests, RetentionWhy: forRequests, MaxMessageBytes: requestBytes},
		{Name: names.CheckResults, Retention: kept.Results, RetentionWhy: forResults},
		{Name: names.UsageEvents, Retention: kept.UsageEvents, RetentionWhy: forUsageEvents},
		{Name: names.Commands, Retention: kept.Requests, RetentionWhy: forRequests, MaxMessageBytes: requestBytes},
		{Name: names.CommandResults, Retention: kept.Results, RetentionWhy: forResults},
		{Name: names.DeadLetters, Retention: kept.DeadLetters, RetentionWhy: forDeadLetters, MaxMessageBytes: deadLetterBytes},
	}
	for i := range all {
		all[i].Partitions, all[i].ReplicationFactor = c.Partitions, c.ReplicationFactor
		all[i].MinInsyncReplicas = cmp.Or(c.MinInsyncReplicas, minInsync)
	}
	return all
}

func (c *topicsCreateCommand) Run(ctx context.Context) error {
	broker := c.Kafka.Broker(slog.Default(), nil)
	if err := broker.Reachable(ctx); err != nil {
		return err
	}
	created, err := broker.CreateTopics(ctx, c.topics())
	if few := (*kafka.TooFewBrokersError)(nil); errors.As(err, &few) {
		return fmt.Errorf("%w\n%s", err, tooFewBrokers(few.Brokers))
	}
	if err != nil {
		return err
	}
	shown := make([]shownTopic, len(created))
	for i, topic := range created {
		shown[i] = show(topic, broker.Addresses)
	}
	if c.Output == "json" {
		return json.NewEncoder(os.Stdout).Encode(shown)
	}
	render(shown, broker.Addresses)
	return nil
}

func tooFewBrokers(brokers int) string {
	if brokers == 1 {
		return "On one broker, as on your own machine, give --replication-factor 1. In production have three brokers: one can fail then, and nothing is lost."
	}
	if brokers == 0 {
		return "Start more brokers, or give --replication-factor as many as there are."
	}
	return fmt.Sprintf("Start more brokers, or wait for those that are starting; or give --replication-factor %d.", brokers)
}

// shownTopic is what the user sees of a topic.
type shownTopic struct {
	Topic             string             `json:"topic"`
	Created           bool               `json:"created"`
	Partitions        int                `json:"partitions"`
	ReplicationFactor int                `json:"replication_factor"`
	MinInsyncReplicas int                `json:"min_insync_replicas"`
	RetentionMillis   int64              `json:"retention_ms"`
	Differs           []kafka.Difference `json:"differs"`
	Change            []string           `json:"change"` // commands that make it as it should be
	NotRead           string             `json:"not_read,omitempty"`
}

func show(topic kafka.CreatedTopic, brokers []string) shownTopic {
	if topic.Differs == nil {
		topic.Differs = []kafka.Difference{} // an empty list in JSON
	}
	s := shownTopic{
		Topic: topic.Name, Created: topic.Created, Partitions: topic.Partitions, ReplicationFactor: topic.ReplicationFactor,
		MinInsyncReplicas: topic.MinInsyncReplicas, RetentionMillis: topic.Retention.Milliseconds(),
		Differs: topic.Differs, Change: changes(brokers, []string{topic.Name}, topic.Differs),
	}
	if topic.Unread != nil {
		s.NotRead = topic.Unread.Error()
	}
	return s
}

// changes are commands of Kafka's own tools that make topics, which differ in the same things, as
// they should be; comments where no one command does it.
func changes(brokers, topics []string, differs []kafka.Difference) []string {
	all, entries, later := []string{}, []string{}, []string{}
	server := " --bootstrap-server " + strings.Join(brokers, ",")
	configure := "kafka-configs.sh" + server + " --alter --entity-type topics --entity-name %s --add-config "
	copies := ""
	for _, d := range differs {
		switch d.Config {
		case kafka.PartitionCount:
			if more(d.ShouldBe, d.Is) {
				all = append(all, "# more partitions move customers, see docs/operating.md, Adding partitions",
					each(topics, "kafka-topics.sh"+server+" --alter --topic %s --partitions "+d.ShouldBe))
			} else {
				all = append(all, "# partitions cannot be taken away from "+strings.Join(topics, ", ")+": give --partitions "+d.Is)
			}
		case kafka.ReplicationFactor:
			copies = d.Is
			all = append(all, fmt.Sprintf("# kafka-reassign-partitions.sh gives %s %s copies, see docs/operating.md, Topics that can lose records", strings.Join(topics, ", "), d.ShouldBe))
		default:
			entry := d.Config + "=" + d.ShouldBe
			if d.Config == kafka.MinInsyncReplicas && copies != "" && more(d.ShouldBe, copies) {
				// With fewer copies than that Kafka would take no record.
				later = append(later, "# and only then:", each(topics, configure+entry))
				continue
			}
			entries = append(entries, entry)
		}
	}
	all = append(all, later...)
	if len(entries) > 0 {
		all = append(all, each(topics, configure+strings.Join(entries, ",")))
	}
	return all
}

func more(a, b string) bool {
	m, _ := strconv.Atoi(a)
	n, _ := strconv.Atoi(b)
	return m > n
}

// each makes a shell's loop of a command if it is for several topics.
func each(topics []string, command string) string {
	if len(topics) == 1 {
		return fmt.Sprintf(command, topics[0])
	}
	return "for topic in " + strings.Join(topics, " ") + "; do " + fmt.Sprintf(command, "$topic") + "; done"
}

func render(topics []shownTopic, brokers []string) {
	paint := terminal.NewPaint(os.Stdout)
	rows := terminal.NewTable(os.Stdout, table.Row{"topic", "partitions", "copies", "min in sync", "kept", ""})
	var notRead []string
	for _, topic := range topics {
		what := "exists"
		switch {
		case topic.Created:
			what = paint.Good("created")
		case len(topic.Differs) > 0:
			what = paint.Bad("exists, differs")
		case topic.NotRead == "":
			what = paint.Good("exists, as it should be")
		}
		rows.AppendRow(table.Row{
			topic.Topic, topic.Partitions, topic.ReplicationFactor, topic.MinInsyncReplicas, humanDuration(time.Duration(topic.RetentionMillis) * time.Millisecond), what,
		})
		if topic.NotRead != "" {
			notRead = append(notRead, topic.Topic+": "+topic.NotRead)
		}
	}
	rows.Render()
	renderDifferences(topics, brokers, paint)
	if len(notRead) > 0 {
		fmt.Println(paint.Strong("\nNot compared, since this user may not read their configuration (DescribeConfigs):\n"))
		fmt.Println("  " + strings.Join(notRead, "\n  "))
	}
}

func renderDifferences(topics []shownTopic, brokers []string, paint terminal.Paint) {
	rows := terminal.NewTable(os.Stdout, table.Row{"topic", "", "is", "should be", "because"})
	var commands []string
	for rest := slices.Clone(topics); len(rest) > 0; {
		first, names := rest[0], []string{}
		rest = slices.DeleteFunc(rest, func(t shownTopic) bool { // what differs in the same things is changed at once
			same := slices.Equal(t.Differs, first.Differs)
			if same {
				names = append(names, t.Topic)
			}
			return same
		})
		commands = append(commands, changes(brokers, names, first.Differs)...)
	}
	for _, topic := range topics {
		for _, d := range topic.Differs {
			rows.AppendRow(table.Row{topic.Topic, d.Config, human(d.Config, d.Is), human(d.Config, d.ShouldBe), d.Why})
		}
	}
	if len(commands) == 0 {
		return
	}
	fmt.Println(paint.Strong("\nNot as it should be:\n"))
	rows.Render()
	fmt.Println(paint.Strong("\nTopics that existed were left as they are. To change them:\n"))
	fmt.Println("  " + strings.Join(commands, "\n  "))
}

// human shows a value of a configuration to people: milliseconds as days, too.
func human(config, value string) string {
	ms, err := strconv.ParseInt(value, 10, 64)
	if config != kafka.RetentionMillis || err != nil {
		return value
	}
	if ms < 0 {
		return value + " (for ever)"
	}
	return fmt.Sprintf("%s (%s)", value, humanDuration(time.Duration(ms)*time.Millisecond))
}

func humanDuration(d time.Duration) string {
	const day = 24 * time.Hour
	if d == day {
		return "1 day"
	}
	if d > day && d%day == 0 {
		return fmt.Sprintf("%d days", d/day)
	}
	return d.String()
}

const topicsTimeout = 10 * time.Second

// warnOfTopics says what of the topics can lose records, or stop them from being written. What
// cannot be read is no failure: a worker need not be allowed to (docs/security.md).
func (w *worker) warnOfTopics(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, topicsTimeout)
	defer cancel()
	states, brokers, err := w.broker.DescribeTopics(ctx, w.topics)
	if err != nil {
		w.logger.Info("the topics were not checked for what can lose records", "error", err)
		return
	}
	// Mostly all topics have the same: that is one line, not six.
	var risks []kafka.Difference
	topics, unread := map[kafka.Difference][]string{}, []string{}
	for _, state := range states {
		if err = cmp.Or(state.Unread(), err); state.Unread() != nil {
			unread = append(unread, state.Name)
		}
		for _, risk := range w.risks(state, brokers) {
			if topics[risk] == nil {
				risks = append(risks, risk)
			}
			topics[risk] = append(topics[risk], state.Name)
		}
	}
	for _, risk := range risks {
		names := topics[risk]
		w.logger.Warn(fmt.Sprintf("%s is %s for topics of this worker, should be %s: %s", risk.Config, risk.Is, risk.ShouldBe, risk.Why),
			"topics", strings.Join(names, ", "), "change", strings.Join(changes(w.broker.Addresses, names, []kafka.Difference{risk}), "; "))
	}
	if err != nil {
		w.logger.Info("min.insync.replicas and cleanup.policy of topics were not checked: that takes the right to DescribeConfigs, which a worker need not have",
			"topics", strings.Join(unread, ", "), "error", err)
	}
}

func (w *worker) risks(state kafka.TopicState, brokers int) []kafka.Difference {
	if slices.Contains(w.replyTopics, state.Name) {
		return state.DurabilityRisks(brokers)
	}
	return state.Risks(brokers)
}
