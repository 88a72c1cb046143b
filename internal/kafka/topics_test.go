package kafka

import (
	"slices"
	"strings"
	"testing"
	"time"
)

func configsOf(differs []Difference) (names []string) {
	for _, d := range differs {
		names = append(names, d.Config)
	}
	slices.Sort(names)
	return names
}

func TestWhatOfATopicCanLoseRecordsIsARisk(t *testing.T) {
	type configs = map[string]string
	for _, c := range []struct {
		name    string
		brokers int
		copies  int
		configs configs
		want    []string
	}{
		{"three copies, two of them must have a record", 3, 3, configs{MinInsyncReplicas: "2", CleanupPolicy: "delete", uncleanElection: "false"}, nil},
		{"one copy on the one broker that there is", 1, 1, configs{MinInsyncReplicas: "1"}, nil},
		{"one copy where there could be more", 3, 1, configs{MinInsyncReplicas: "1"}, []string{ReplicationFactor}},
		{"the leader alone may acknowledge, of three", 3, 3, configs{MinInsyncReplicas: "1"}, []string{MinInsyncReplicas}},
		{"the leader alone may acknowledge, of two", 2, 2, configs{MinInsyncReplicas: "1"}, []string{MinInsyncReplicas}},
		{"the leader alone may acknowledge, the other broker is away", 1, 2, configs{MinInsyncReplicas: "1"}, []string{MinInsyncReplicas}},
		{"more copies must have a record than there are", 3, 1, configs{MinInsyncReplicas: "2"}, []string{MinInsyncReplicas, ReplicationFactor}},
		{"compaction", 3, 3, configs{MinInsyncReplicas: "2", CleanupPolicy: "compact"}, []string{CleanupPolicy}},
		{"compaction and deletion", 3, 3, configs{MinInsyncReplicas: "2", CleanupPolicy: "delete,compact"}, []string{CleanupPolicy}},
		{"a leader that lacks records", 3, 3, configs{MinInsyncReplicas: "2", uncleanElection: "true"}, []string{uncleanElection}},
		{"what is not told is no risk", 3, 3, nil, nil},
		{"the copies are told by the metadata, too", 3, 1, nil, []string{ReplicationFactor}},
	} {
		t.Run(c.name, func(t *testing.T) {
			state := TopicState{Name: "t", Partitions: 1, ReplicationFactor: c.copies, configs: c.configs}
			slices.Sort(c.want)
			if got := configsOf(state.Risks(c.brokers)); !slices.Equal(got, c.want) {
				t.Errorf("got %v, want %v", got, c.want)
			}
			// Somebody else's topic may be compacted.
			c.want = slices.DeleteFunc(c.want, func(name string) bool { return name == CleanupPolicy })
			if got := configsOf(state.DurabilityRisks(c.brokers)); !slices.Equal(got, c.want) {
				t.Errorf("durability: got %v, want %v", got, c.want)
			}
		})
	}
}

func TestATopicDiffersInWhatItsBrokerTells(t *testing.T) {
	want := Topic{Name: "t", Partitions: 4, ReplicationFactor: 3, Retention: time.Hour, MinInsyncReplicas: 2, MaxMessageBytes: 1000}
	right := map[string]string{}
	for _, c := range want.configs() {
		right[c.name] = c.value
	}
	state := func() TopicState {
		configs := map[string]string{}
		for name, value := range right {
			configs[name] = value
		}
		return TopicState{Name: "t", Partitions: 4, ReplicationFactor: 3, configs: configs}
	}
	if differs := want.differences(state()); len(differs) > 0 {
		t.Errorf("nothing differs, and got %v", differs)
	}
	for name := range right {
		is := state()
		is.configs[name] = "7"
		differs := want.differences(is)
		if len(differs) != 1 || differs[0].Config != name || differs[0].Is != "7" || differs[0].ShouldBe != right[name] || differs[0].Why == "" && name != RetentionMillis {
			t.Errorf("%s: got %+v", name, differs)
		}
		delete(is.configs, name)
		if differs := want.differences(is); len(differs) > 0 {
			t.Errorf("%s is not told: got %+v", name, differs)
		}
	}
	for _, c := range []struct {
		name         string
		copies       int
		minInsync    string
		differs      []string
		becauseWrite bool
	}{
		{"more copies", 4, "2", nil, false},
		{"more of them must have a record, and one can be missed", 4, "3", nil, false},
		{"all of them must have a record", 3, "3", []string{MinInsyncReplicas}, true},
		{"one of them need have it", 3, "1", []string{MinInsyncReplicas}, false},
	} {
		is := state()
		is.ReplicationFactor, is.configs[MinInsyncReplicas] = c.copies, c.minInsync
		differs := want.differences(is)
		if !slices.Equal(configsOf(differs), c.differs) {
			t.Errorf("%s: got %+v", c.name, differs)
		}
		if len(differs) == 1 && strings.Contains(differs[0].Why, "no record can be written") != c.becauseWrite {
			t.Errorf("%s: got %+v", c.name, differs)
		}
	}
	is := state()
	is.Partitions, is.ReplicationFactor = 3, 2
	if got := configsOf(want.differences(is)); !slices.Equal(got, []string{PartitionCount, ReplicationFactor}) {
		t.Errorf("got %v", got)
	}
}

func TestTooFewBrokersAreCounted(t *testing.T) {
	for brokers, want := range map[int]string{0: "fewer brokers", 1: "1 broker", 2: "2 brokers"} {
		err := &TooFewBrokersError{Topic{Name: "t", ReplicationFactor: 3}, brokers}
		if !strings.HasSuffix(err.Error(), "has "+want) {
			t.Errorf("%d: %v", brokers, err)
		}
	}
}
