package ops

import (
	"fmt"
	"strings"
	"testing"

	"tollgate/internal/kafka"
)

func TestPartitionsAreReportedByReason(t *testing.T) {
	line := func(g Group) string { return fmt.Sprintf("%s: %d, %v: %s", g.Partitions, g.Records, g.For, g.Reason) }
	at := func(topic string, partition int, reason string) Waiting {
		return Waiting{kafka.Target{Topic: topic, Partition: partition}, 10, 7, reason}
	}
	var many []Waiting
	for i := range 96 {
		many = append(many, at("checks", i, fmt.Sprintf("offset %d is gone", i)))
	}
	for name, test := range map[string]struct {
		all   []Waiting
		wants []string
	}{
		"neighbours are a range, whatever the order": {
			[]Waiting{at("checks", 7, "redis"), at("checks", 1, "redis"), at("checks", 0, "redis"), at("checks", 2, "redis"), at("checks", 10, "redis")},
			[]string{"checks 0-2, 7, 10: 50, 7ns: redis"},
		},
		"topics and reasons are apart": {
			[]Waiting{at("commands", 0, "redis"), at("checks", 0, "redis"), at("checks", 1, "kafka")},
			[]string{"checks 0: 10, 7ns: redis", "checks 1: 10, 7ns: kafka", "commands 0: 10, 7ns: redis"},
		},
		"the worker's own ports are no reasons": {
			[]Waiting{at("checks", 0, "read tcp 127.0.0.1:34140->127.0.0.1:6379: i/o timeout"), at("checks", 1, "read tcp [::1]:34144->127.0.0.1:6379: i/o timeout")},
			[]string{"checks 0-1: 20, 7ns: read tcp 127.0.0.1:6379: i/o timeout"},
		},
		"many reasons are bounded": {
			many,
			[]string{
				"checks 0: 10, 7ns: offset 0 is gone", "checks 1: 10, 7ns: offset 1 is gone", "checks 2: 10, 7ns: offset 2 is gone", "checks 3: 10, 7ns: offset 3 is gone",
				"checks 4: 10, 7ns: offset 4 is gone", "checks 5: 10, 7ns: offset 5 is gone", "checks 6: 10, 7ns: offset 6 is gone", "checks 7: 10, 7ns: offset 7 is gone",
				"and 88 more partitions, for other reasons",
			},
		},
	} {
		t.Run(name, func(t *testing.T) {
			if got, want := Report(test.all, line).Error(), strings.Join(test.wants, "\n"); got != want {
				t.Errorf("got\n%s\nwant\n%s", got, want)
			}
		})
	}
	if err := Report(nil, line); err != nil {
		t.Errorf("nothing waits: %v", err)
	}
}
