//go:build real

package access

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/segmentio/kafka-go"

	"tollgate/internal/proctest"
	"tollgate/internal/realtest"
	"tollgate/internal/servertest"
)

// replayGroup is that of the dead letters that were sent back.
const replayGroup = "replay"

// producerACLs are all that the producer needs for everything it does (docs/security.md).
func (s *securedKafka) producerACLs() (all []acl) {
	topics := s.test.Topics
	for _, topic := range []string{topics.Checks, topics.Commands} {
		all = append(all, acl{resource: kafka.ResourceTypeTopic, name: topic, operation: kafka.ACLOperationTypeWrite})
	}
	for _, topic := range []string{topics.CheckResults, topics.CommandResults, topics.UsageEvents, topics.DeadLetters} {
		all = append(all, acl{resource: kafka.ResourceTypeTopic, name: topic, operation: kafka.ACLOperationTypeRead})
	}
	return append(all, acl{resource: kafka.ResourceTypeGroup, name: replayGroup, operation: kafka.ACLOperationTypeRead})
}

// awaitACL waits until the broker's authorizer knows whether a right is given: it learns so a moment after the answer.
func (s *securedKafka) awaitACL(t *testing.T, principal string, a acl, given bool) {
	t.Helper()
	realtest.Until(t, "the authorizer", func() bool {
		response, err := s.test.Broker.Client.DescribeACLs(t.Context(), &kafka.DescribeACLsRequest{Filter: kafka.ACLFilter{
			ResourceTypeFilter: a.resource, ResourceNameFilter: a.name, ResourcePatternTypeFilter: kafka.PatternTypeLiteral,
			PrincipalFilter: principal, HostFilter: "*", Operation: a.operation, PermissionType: kafka.ACLPermissionTypeAllow,
		}})
		return err == nil && response.Error == nil && (len(response.Resources) > 0) == given
	})
}

// without runs a test while the user lacks a right.
func (s *securedKafka) without(t *testing.T, a acl, test func()) {
	t.Helper()
	principal := s.principal(false)
	s.forbid(t, principal, a)
	s.awaitACL(t, principal, a, false)
	test()
	s.allow(t, principal, a)
	s.awaitACL(t, principal, a, true)
}

// tools are the producer's commands, each with the topics or the group that it uses.
func (s *securedKafka) tools(t *testing.T) map[string]struct{ args, uses []string } {
	t.Helper()
	topics, folder := s.test.Topics, t.TempDir()
	write := func(name, text string) string {
		file := filepath.Join(folder, name)
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return file
	}
	lines := write("lines", `{"customer_id":"acme","feature_id":"messages","send_event":true}`+"\n")
	customers := write("customers.csv", "customer_id\nglobex\n")
	return map[string]struct{ args, uses []string }{
		"check":               {[]string{"check", "--customer", "acme", "--feature", "messages"}, []string{topics.Checks, topics.CheckResults}},
		"track":               {[]string{"track", "--customer", "acme", "--feature", "messages"}, []string{topics.Commands, topics.CommandResults}},
		"send":                {[]string{"send", lines}, []string{topics.Checks}},
		"send --wait":         {[]string{"send", lines, "--wait"}, []string{topics.Checks, topics.CheckResults}},
		"import":              {[]string{"import", customers}, []string{topics.Commands, topics.CommandResults}},
		"load":                {[]string{"load", "--rate", "10", "--duration", "1s", "--customers", "1"}, []string{topics.Commands, topics.CommandResults, topics.Checks, topics.CheckResults}},
		"tail results":        {[]string{"tail", "results", "--from-beginning", "--count", "1"}, []string{topics.CheckResults}},
		"tail usage":          {[]string{"tail", "usage", "--from-beginning", "--count", "1"}, []string{topics.UsageEvents}},
		"replay-dead-letters": {[]string{"replay-dead-letters", "--group", replayGroup}, []string{topics.DeadLetters, replayGroup, topics.Checks}},
	}
}

// soon is within what time a tool must have said why it cannot go on.
const soon = 15 * time.Second

// refuses runs the producer, which must end soon with code 1 and say why.
func refuses(t *testing.T, args []string, wants ...string) {
	t.Helper()
	began := time.Now()
	out := proctest.Run(t, nil, "producer", args...)
	if took := time.Since(began); out.Code != 1 || took > soon {
		t.Errorf("producer %s: exit code %d after %v\n%s%s", strings.Join(args, " "), out.Code, took, out.Stdout, out.Stderr)
	}
	for _, want := range wants {
		if !strings.Contains(out.Stderr, want) {
			t.Errorf("no %q in\n%s", want, out.Stderr)
		}
	}
}

func TestTheProducerSaysWhatItMayNot(t *testing.T) {
	s := startSecuredKafka(t, listener{protocol: "SASL_SSL", clientAuth: "none"})
	principal := s.principal(false)
	everything := s.producerACLs()
	s.allow(t, principal, everything...)
	for _, a := range everything {
		s.awaitACL(t, principal, a, true)
	}
	s.test.Brokers = strings.Join(s.test.Broker.Addresses, ",") // the worker may do everything
	worker, _ := s.test.StartReady(t)
	decides(t, s.test)
	s.test.Command(t, "acme", `{"type":"customer.put","customer_id":"acme"}`)
	login := func(mechanism, secret string) []string {
		return []string{"--kafka-brokers", s.workers, "--kafka-tls", "--kafka-tls-ca", s.ca, "--kafka-sasl-mechanism", mechanism, "--kafka-sasl-username", user, "--kafka-sasl-password", secret}
	}
	tools := s.tools(t)
	flags := append(login("scram-sha-512", "secret"), s.test.TopicFlags...)
	for name, tool := range tools {
		t.Run(name, func(t *testing.T) {
			dead := kafka.Message{Topic: s.test.Topics.Checks, Partition: -1, Value: []byte("not json")}
			if name == "replay-dead-letters" { // which needs something to send back
				drain := servertest.NewDrain(t, s.test.Broker, s.test.Topics.DeadLetters)
				if err := s.test.Client.Send(t.Context(), []kafka.Message{dead}); err != nil {
					t.Fatal(err)
				}
				s.test.AwaitRecords(t, drain, 1)
			}
			for _, a := range everything {
				if !slices.Contains(tool.uses, a.name) {
					continue
				}
				s.without(t, a, func() {
					wants := []string{a.name, "this user may not", "TOPIC_AUTHORIZATION_FAILED", "docs/security.md"}
					if a.resource == kafka.ResourceTypeGroup {
						wants[2] = "GROUP_AUTHORIZATION_FAILED"
					}
					refuses(t, append(slices.Clone(tool.args), flags...), wants...)
				})
			}
			out := proctest.Run(t, nil, "producer", append(slices.Clone(tool.args), flags...)...)
			if out.Code != 0 {
				t.Errorf("with all that it needs: exit code %d\n%s%s", out.Code, out.Stdout, out.Stderr)
			}
		})
	}
	t.Run("may see a topic but not read it", func(t *testing.T) {
		results := acl{resource: kafka.ResourceTypeTopic, name: s.test.Topics.CheckResults, operation: kafka.ACLOperationTypeRead}
		sees := results
		sees.operation = kafka.ACLOperationTypeDescribe
		s.allow(t, principal, sees)
		s.awaitACL(t, principal, sees, true)
		s.without(t, results, func() {
			for _, name := range []string{"check", "send --wait", "tail results"} {
				refuses(t, append(slices.Clone(tools[name].args), flags...), "this user may not read topic "+results.name)
			}
		})
		s.forbid(t, principal, sees)
	})
	t.Run("a topic that is missing", func(t *testing.T) {
		// To see that it is missing takes the right to it.
		missing := acl{resource: kafka.ResourceTypeTopic, name: "missing", operation: kafka.ACLOperationTypeRead}
		s.allow(t, principal, missing)
		s.awaitACL(t, principal, missing, true)
		for name, topicFlag := range map[string]string{
			"tail usage": "usage-events", "send --wait": "check-results", "import": "command-results", "check": "check-results", "replay-dead-letters": "dead-letters",
		} {
			refuses(t, slices.Concat(tools[name].args, flags, []string{"--topic-" + topicFlag, "missing"}), "topic missing does not exist", "worker topics create")
		}
	})
	for name, wrong := range map[string]struct {
		flags []string
		says  string
	}{
		"a wrong password":              {login("scram-sha-512", "wrong"), "SASL_AUTHENTICATION_FAILED"},
		"a wrong password, plain":       {login("plain", "wrong"), "SASL_AUTHENTICATION_FAILED"},
		"an authority not the broker's": {append(login("plain", password), "--kafka-tls-ca", newAuthority(t).file), "tls: "},
		"no TLS":                        {[]string{"--kafka-brokers", s.workers}, "--kafka-tls"},
		"no login":                      {[]string{"--kafka-brokers", s.workers, "--kafka-tls", "--kafka-tls-ca", s.ca}, "--kafka-sasl"},
	} {
		t.Run(name, func(t *testing.T) {
			refuses(t, slices.Concat(tools["tail usage"].args, wrong.flags, s.test.TopicFlags), wrong.says)
		})
	}
	worker.Stop(t) // so that nobody answers
	t.Run("a right that is taken away meanwhile", func(t *testing.T) { s.losesRight(t, flags, tools["import"].args) })
}

// losesRight takes the right to read from a tail, and from an import whose answers nobody gives.
func (s *securedKafka) losesRight(t *testing.T, flags, importArgs []string) {
	for name, c := range map[string]struct {
		topic string
		args  []string
	}{
		"tail":   {s.test.Topics.UsageEvents, []string{"tail", "usage", "--from-beginning"}},
		"import": {s.test.Topics.CommandResults, append(slices.Clone(importArgs), "--timeout", "10m")},
	} {
		t.Run(name, func(t *testing.T) {
			sent := servertest.NewDrain(t, s.test.Broker, s.test.Topics.Commands)
			if _, err := sent.Next(t.Context()); err != nil {
				t.Fatal(err)
			}
			tool := proctest.Start(t, "producer", append(slices.Clone(c.args), flags...)...)
			if name == "tail" {
				tool.AwaitOutput(t, "messages") // it reads
			} else {
				s.test.AwaitRecords(t, sent, 1)
			}
			s.without(t, acl{resource: kafka.ResourceTypeTopic, name: c.topic, operation: kafka.ACLOperationTypeRead}, func() {
				began := time.Now()
				if code := tool.Wait(t); code != 1 || time.Since(began) > soon {
					t.Errorf("exit code %d after %v", code, time.Since(began))
				}
				tool.AwaitOutput(t, "this user may not read topic "+c.topic)
			})
		})
	}
}
