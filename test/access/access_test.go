//go:build real

// Package access lets workers in, or not: TLS, mutual TLS, SASL and ACLs of a real Kafka,
// TLS and ACLs of a real Redis. `make access` runs it.
package access

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/segmentio/kafka-go"

	"tollgate/internal/proctest"
	"tollgate/internal/realtest"
	"tollgate/internal/servertest"
)

func TestMain(m *testing.M) {
	os.Exit(proctest.Main(m))
}

const (
	user     = "worker"
	password = "pass, word"
)

// securedKafka has a listener for workers, with TLS and SASL, and one for the test, which
// may do everything.
type securedKafka struct {
	workers string // address
	kafka   *realtest.Kafka
	ca      string // file
	server  pair   // of the broker
	client  pair   // of a user that may come in by mutual TLS
	test    *proctest.Deployment
}

// listener is what the workers' listener is like.
type listener struct {
	protocol   string   // SASL_SSL or SSL
	clientAuth string   // none or required
	properties []string // further ones
	jvm        string   // further options of Java
}

func startSecuredKafka(t *testing.T, l listener) *securedKafka {
	t.Helper()
	ca := newAuthority(t)
	server := ca.issue(t, "broker")
	workers := proctest.FreeAddr(t)
	scram := func(mechanism string) string {
		return fmt.Sprintf("--add-scram %s=[name=%s,password=secret]", mechanism, user)
	}
	k := realtest.StartKafka(t, realtest.KafkaOptions{
		Format: scram("SCRAM-SHA-256") + " " + scram("SCRAM-SHA-512"),
		Properties: func(addr string) string {
			return strings.Join(append([]string{
				"listeners=WORKERS://" + workers + ",PLAINTEXT://" + addr + ",CONTROLLER://" + realtest.ControllerAddr(addr),
				"advertised.listeners=WORKERS://" + workers + ",PLAINTEXT://" + addr,
				"listener.security.protocol.map=WORKERS:" + l.protocol + ",PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
				"sasl.enabled.mechanisms=PLAIN,SCRAM-SHA-256,SCRAM-SHA-512,OAUTHBEARER",
				"listener.name.workers.oauthbearer.sasl.jaas.config=org.apache.kafka.common.security.oauthbearer.OAuthBearerLoginModule required;",
				`listener.name.workers.plain.sasl.jaas.config=org.apache.kafka.common.security.plain.PlainLoginModule required user_` + user + `="` + password + `";`,
				"listener.name.workers.scram-sha-256.sasl.jaas.config=org.apache.kafka.common.security.scram.ScramLoginModule required;",
				"listener.name.workers.scram-sha-512.sasl.jaas.config=org.apache.kafka.common.security.scram.ScramLoginModule required;",
				"authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer", "super.users=User:ANONYMOUS",
				"ssl.keystore.type=PEM", "ssl.keystore.location=" + server.both,
				"ssl.truststore.type=PEM", "ssl.truststore.location=" + ca.file,
				"listener.name.workers.ssl.client.auth=" + l.clientAuth,
			}, l.properties...), "\n") + "\n"
		},
		JVM: l.jvm,
	})
	r := realtest.StartRedis(t)
	d := proctest.NewDeploymentOn(t, servertest.BrokerAt(t, k.Addr), "--redis-addrs", r.Addr)
	d.Brokers = workers
	return &securedKafka{
		workers: workers, kafka: k, ca: ca.file, server: server, client: ca.issue(t, user),
		test: d,
	}
}

// acl is one thing that a worker must be allowed.
type acl struct {
	resource  kafka.ResourceType
	name      string
	operation kafka.ACLOperationType
	pattern   kafka.PatternType // literal where it is 0
}

// acls are the smallest that suffice (docs/security.md).
func (s *securedKafka) acls() []acl {
	topics := s.test.Topics
	all := []acl{{resource: kafka.ResourceTypeGroup, name: s.test.Group, operation: kafka.ACLOperationTypeRead}}
	for _, topic := range []string{topics.Checks, topics.Commands} {
		all = append(all, acl{resource: kafka.ResourceTypeTopic, name: topic, operation: kafka.ACLOperationTypeRead})
	}
	for _, topic := range []string{topics.CheckResults, topics.CommandResults, topics.UsageEvents, topics.DeadLetters} {
		all = append(all, acl{resource: kafka.ResourceTypeTopic, name: topic, operation: kafka.ACLOperationTypeWrite})
	}
	return all
}

// sweeping is what a worker needs to have locks expire that nobody asks for.
func (s *securedKafka) sweeping() acl {
	return acl{resource: kafka.ResourceTypeTopic, name: s.test.Topics.Commands, operation: kafka.ACLOperationTypeWrite}
}

// transactions is what --exactly-once needs beside the others.
func (s *securedKafka) transactions() acl {
	return acl{kafka.ResourceTypeTransactionalID, s.test.Group + "/", kafka.ACLOperationTypeWrite, kafka.PatternTypePrefixed}
}

func (s *securedKafka) principal(mutual bool) string {
	if mutual {
		return "User:CN=" + user
	}
	return "User:" + user
}

func (s *securedKafka) allow(t *testing.T, principal string, all ...acl) {
	t.Helper()
	request := &kafka.CreateACLsRequest{}
	for _, a := range all {
		request.ACLs = append(request.ACLs, kafka.ACLEntry{
			ResourceType: a.resource, ResourceName: a.name, ResourcePatternType: cmp.Or(a.pattern, kafka.PatternTypeLiteral), Principal: principal, Host: "*",
			Operation: a.operation, PermissionType: kafka.ACLPermissionTypeAllow,
		})
	}
	response, err := s.test.Broker.Client.CreateACLs(t.Context(), request)
	if err != nil {
		t.Fatal(err)
	}
	for _, err := range response.Errors {
		if err != nil {
			t.Fatal(err)
		}
	}
}

func (s *securedKafka) forbid(t *testing.T, principal string, a acl) {
	t.Helper()
	response, err := s.test.Broker.Client.DeleteACLs(t.Context(), &kafka.DeleteACLsRequest{Filters: []kafka.DeleteACLsFilter{{
		ResourceTypeFilter: a.resource, ResourceNameFilter: a.name, ResourcePatternTypeFilter: kafka.PatternTypeLiteral,
		PrincipalFilter: principal, HostFilter: "*", Operation: a.operation, PermissionType: kafka.ACLPermissionTypeAllow,
	}}})
	if err != nil {
		t.Fatal(err)
	}
	if len(response.Results) != 1 || response.Results[0].Error != nil || len(response.Results[0].MatchingACLs) != 1 {
		t.Fatalf("got %+v", response)
	}
}

// decides asks for a decision, which must come.
func decides(t *testing.T, d *proctest.Deployment) {
	t.Helper()
	d.Command(t, "acme", `{"type":"customer.put","customer_id":"acme"}`)
	if r := d.Check(t, "acme", `{"customer_id":"acme","feature_id":"messages","send_event":true}`); !r.Allowed {
		t.Errorf("got %+v", r)
	}
	d.Command(t, "acme", `{"type":"customer.delete","customer_id":"acme"}`)
}

func noSecrets(t *testing.T, worker *proctest.Process, secrets ...string) {
	t.Helper()
	for _, secret := range secrets {
		if strings.Contains(worker.Output(), secret) {
			t.Errorf("the log has the secret %q:\n%s", secret, worker.Output())
		}
	}
}

func TestSASLOverTLSWithTheSmallestACLs(t *testing.T) {
	s := startSecuredKafka(t, listener{protocol: "SASL_SSL", clientAuth: "none"})
	principal := s.principal(false)
	s.allow(t, principal, s.acls()...)
	flags := func(mechanism, secret string) []string {
		return []string{"--kafka-tls", "--kafka-tls-ca", s.ca, "--kafka-sasl-mechanism", mechanism, "--kafka-sasl-username", user, "--kafka-sasl-password", secret}
	}
	for mechanism, secret := range map[string]string{"plain": password, "scram-sha-256": "secret", "scram-sha-512": "secret"} {
		worker, _ := s.test.StartReady(t, append(flags(mechanism, secret), "--log-level", "debug")...)
		decides(t, s.test)
		worker.AwaitOutput(t, "that takes the right to DescribeConfigs")
		noSecrets(t, worker, secret)
		if code := worker.Stop(t); code != 0 {
			t.Errorf("%s: exit code %d\n%s", mechanism, code, worker.Output())
		}
	}
	sweepsIfItMay(t, s, principal, flags("plain", password))
	once := append(flags("plain", password), "--exactly-once")
	worker, _ := s.test.Start(t, once...)
	worker.AwaitOutput(t, "Transactional ID Authorization Failed")
	s.allow(t, principal, s.transactions())
	decides(t, s.test) // it tried on
	if code := worker.Stop(t); code != 0 {
		t.Errorf("exactly once: exit code %d\n%s", code, worker.Output())
	}
	worker, _ = s.test.Start(t, flags("scram-sha-512", "wrong")...)
	worker.AwaitOutput(t, "SASL Authentication failed")
	worker.Kill()
	for _, a := range s.acls() {
		t.Run("without "+strings.TrimPrefix(a.name, s.test.Group), func(t *testing.T) {
			s.forbid(t, principal, a)
			defer s.allow(t, principal, a)
			worker, _ := s.test.Start(t, flags("scram-sha-256", "secret")...)
			worker.AwaitOutput(t, a.name)
			worker.AwaitOutput(t, map[kafka.ResourceType]string{
				kafka.ResourceTypeGroup: "Group Authorization Failed", kafka.ResourceTypeTopic: "may not see them: " + a.name,
			}[a.resource])
			worker.Kill()
		})
	}
}

// sweepsIfItMay has a lock expire: a worker that may not send lock.expire says so, and goes on once it may.
func sweepsIfItMay(t *testing.T, s *securedKafka, principal string, flags []string) {
	t.Helper()
	worker, httpAddr := s.test.StartReady(t, flags...)
	s.test.Command(t, "acme", `{"type":"customer.put","customer_id":"acme"}`)
	held := s.test.Check(t, "acme", fmt.Sprintf(`{"customer_id":"acme","feature_id":"messages","lock":{"enabled":true,"expires_at":%d}}`, time.Now().Add(time.Second).UnixMilli()))
	if held.Lock == nil {
		t.Fatalf("got %+v", held)
	}
	worker.AwaitOutput(t, "locks that expire are released with the next request of their customers only")
	s.allow(t, principal, s.sweeping())
	servertest.Until(t, "the lock is swept", func() bool { return proctest.Metric(t, httpAddr, "tollgate_locks_swept_total") > 0 })
	s.forbid(t, principal, s.sweeping())
	s.test.Command(t, "acme", `{"type":"customer.delete","customer_id":"acme"}`)
	if code := worker.Stop(t); code != 0 {
		t.Errorf("exit code %d\n%s", code, worker.Output())
	}
}

func TestMutualTLS(t *testing.T) {
	s := startSecuredKafka(t, listener{protocol: "SSL", clientAuth: "required"})
	s.allow(t, s.principal(true), s.acls()...)
	flags := []string{"--kafka-tls", "--kafka-tls-ca", s.ca}
	worker, _ := s.test.StartReady(t, append(slices.Clone(flags), "--kafka-tls-cert", s.client.cert, "--kafka-tls-key", s.client.key)...)
	decides(t, s.test)
	if code := worker.Stop(t); code != 0 {
		t.Errorf("exit code %d\n%s", code, worker.Output())
	}
	for name, wrong := range map[string][]string{
		"no certificate of its own": flags,
		"an authority that is not the broker's": {
			"--kafka-tls", "--kafka-tls-ca", newAuthority(t).file, "--kafka-tls-cert", s.client.cert, "--kafka-tls-key", s.client.key,
		},
	} {
		t.Run(name, func(t *testing.T) {
			worker, _ := s.test.Start(t, wrong...)
			worker.AwaitOutput(t, "tls: ")
			worker.Kill()
		})
	}
}

// redisACL is the smallest that suffices on one server (docs/security.md).
var redisACL = []string{
	"+ping", "+info", "+hello", "+client|setname", "+evalsha", "+script|load", "+mget", "+mset", "+get", "+pexpire", "+unlink",
	"+hsetnx", "+hgetall", "+hget", "+hmget", "+hset", "+hkeys", "+hdel",
}

func TestRedisOverTLSWithTheSmallestACL(t *testing.T) {
	ca := newAuthority(t)
	server, client := ca.issue(t, "redis"), ca.issue(t, user)
	secure := proctest.FreeAddr(t)
	r := realtest.StartRedis(t, "--tls-port", realtest.Port(secure), "--tls-cert-file", server.cert, "--tls-key-file", server.key, "--tls-ca-cert-file", ca.file)
	k := realtest.StartKafka(t, realtest.KafkaOptions{})
	d := proctest.NewDeploymentOn(t, servertest.BrokerAt(t, k.Addr), "--redis-addrs", secure, "--redis-tls", "--redis-tls-ca", ca.file,
		"--redis-tls-cert", client.cert, "--redis-tls-key", client.key, "--redis-username", user, "--redis-password", "redis secret")
	setUser := func(rules ...string) {
		t.Helper()
		args := []any{"ACL", "SETUSER", user, "reset", "on", ">redis secret", "~" + d.Group + ":*"}
		for _, rule := range rules {
			args = append(args, rule)
		}
		if err := r.Client.Do(context.Background(), args...).Err(); err != nil {
			t.Fatal(err)
		}
	}
	setUser(redisACL...)
	worker, _ := d.StartReady(t, "--log-level", "debug")
	exercise(t, d)
	noSecrets(t, worker, "redis secret")
	const refused, refusedInScript = "this user has no permissions to run the", "The user executing the script can't run this command"
	for rule, says := range map[string]string{
		"+evalsha": refused, "+hsetnx": refused, "+mget": refusedInScript, "+mset": refusedInScript, "+hmget": refusedInScript, "+hset": refusedInScript,
	} {
		t.Run("without "+rule, func(t *testing.T) {
			worker.Kill()
			setUser(slices.DeleteFunc(slices.Clone(redisACL), func(r string) bool { return r == rule })...)
			lacking, _ := d.Start(t)
			answered := make(chan struct{})
			go func() {
				defer close(answered)
				d.Check(t, "acme", `{"customer_id":"acme","feature_id":"messages","send_event":true}`)
			}()
			lacking.AwaitOutput(t, says)
			setUser(redisACL...) // mended: what waited is decided
			<-answered
			worker = lacking
		})
	}
	setUser("+@all")
	args := []any{"ACL", "SETUSER", user, "resetkeys", "~elsewhere*"}
	if err := r.Client.Do(context.Background(), args...).Err(); err != nil {
		t.Fatal(err)
	}
	worker.Kill()
	worker, _ = d.Start(t)
	worker.AwaitOutput(t, "NOPERM")
	worker.Kill()
	setUser(redisACL...)
	worker, _ = d.Start(t, "--redis-password", "wrong")
	worker.AwaitOutput(t, "WRONGPASS")
}

// exercise has every script run once.
func exercise(t *testing.T, d *proctest.Deployment) {
	t.Helper()
	for _, body := range []string{
		`{"type":"customer.put","customer_id":"acme"}`, `{"type":"plan.attach","customer_id":"acme","plan_id":"pro"}`,
		`{"type":"plan.attach","customer_id":"acme","plan_id":"message-pack"}`, `{"type":"plan.detach","customer_id":"acme","plan_id":"message-pack"}`,
		`{"type":"entity.create","customer_id":"acme","entity_id":"ann","feature_id":"seats"}`,
		`{"type":"balance.grant","customer_id":"acme","feature_id":"messages","amount":5,"balance_id":"b"}`,
		`{"type":"balance.update","customer_id":"acme","feature_id":"messages","balance_id":"b","add":1}`,
		`{"type":"usage.track","customer_id":"acme","feature_id":"messages"}`, `{"type":"plan.attach","customer_id":"acme","plan_id":"team"}`,
		`{"type":"customer.get","customer_id":"acme"}`, `{"type":"entity.delete","customer_id":"acme","entity_id":"ann"}`,
		`{"type":"customer.delete","customer_id":"acme"}`, `{"type":"customer.put","customer_id":"acme"}`,
	} {
		d.Command(t, "acme", "%s", body)
	}
	for n := range 3 {
		d.Check(t, "acme", fmt.Sprintf(`{"customer_id":"acme","feature_id":"messages","send_event":%t}`, n > 0))
	}
}
