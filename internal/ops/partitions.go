package ops

import (
	"cmp"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"tollgate/internal/kafka"
)

// Waiting is a partition whose records wait, and why.
type Waiting struct {
	kafka.Target
	Records int64
	For     time.Duration
	Reason  string
}

// Group are partitions of one topic that wait for the same reason.
type Group struct {
	Partitions string // "balance.checks 0-3, 7"
	Records    int64  // of all
	For        time.Duration
	Reason     string
}

// mostGroups bounds what a probe says of partitions that all have reasons of their own.
const mostGroups = 8

// Report says a line for each group of partitions, nil if there are none. A worker may have a hundred of them, and mostly
// all have one reason.
func Report(all []Waiting, line func(Group) string) error {
	groups, rest := groupByReason(all)
	var lines []error
	for _, g := range groups {
		lines = append(lines, errors.New(line(g)))
	}
	if rest > 0 {
		lines = append(lines, fmt.Errorf("and %d more partitions, for other reasons", rest))
	}
	return errors.Join(lines...)
}

// ownPort is the worker's end of a connection, in what Go says of it. It differs from one connection to the other.
var ownPort = regexp.MustCompile(`\S+:\d+->`)

// groupByReason returns groups in the order of their first partitions, and how many partitions are in none.
func groupByReason(all []Waiting) (groups []Group, rest int) {
	type key struct{ topic, reason string }
	var order []key
	members := map[key][]Waiting{}
	sorted := slices.SortedFunc(slices.Values(all), func(a, b Waiting) int {
		return cmp.Or(cmp.Compare(a.Topic, b.Topic), cmp.Compare(a.Partition, b.Partition))
	})
	for _, w := range sorted {
		k := key{w.Topic, ownPort.ReplaceAllString(w.Reason, "")}
		if members[k] == nil {
			order = append(order, k)
		}
		members[k] = append(members[k], w)
	}
	for i, k := range order {
		if i >= mostGroups {
			rest += len(members[k])
			continue
		}
		g := Group{Reason: k.reason}
		var ids []int
		for _, w := range members[k] {
			ids = append(ids, w.Partition)
			g.Records += w.Records
			g.For = max(g.For, w.For)
		}
		g.Partitions = k.topic + " " + ranges(ids)
		groups = append(groups, g)
	}
	return groups, rest
}

// ranges writes numbers that are sorted: "0-3, 7".
func ranges(numbers []int) string {
	var parts []string
	for i := 0; i < len(numbers); {
		last := i
		for last+1 < len(numbers) && numbers[last+1] == numbers[last]+1 {
			last++
		}
		part := strconv.Itoa(numbers[i])
		if last > i {
			part += "-" + strconv.Itoa(numbers[last])
		}
		parts = append(parts, part)
		i = last + 1
	}
	return strings.Join(parts, ", ")
}
