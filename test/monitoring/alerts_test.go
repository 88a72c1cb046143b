//go:build real

package monitoring

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"

	kafkago "github.com/segmentio/kafka-go"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"tollgate/internal/client"
	"tollgate/internal/kafka"
	"tollgate/internal/proctest"
	"tollgate/internal/realtest"
	"tollgate/internal/servertest"
)

// TestAlertsFire breaks what a worker needs, on a real Kafka and a real Redis, and looks for the alert.
func TestAlertsFire(t *testing.T) {
	k := realtest.StartKafka(t, realtest.KafkaOptions{})
	for name, test := range map[string]func(*testing.T, *realtest.Kafka){
		"Redis is stopped and 40,000 checks wait":                        manyWait,
		"Redis is frozen, and each try for one check times out":          triesTimeOut,
		"a worker is not in its group, then no worker, then all wait":    notInTheGroup,
		"records are deleted unread, one is unreadable, a topic is gone": lost,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t, k)
		})
	}
}

// send sends checks, each of a customer of its own.
func send(t *testing.T, d *proctest.Deployment, checks int) {
	t.Helper()
	const atOnce = 5000
	for from := 0; from < checks; from += atOnce {
		var records []kafka.Message
		for i := from; i < min(from+atOnce, checks); i++ {
			customer := fmt.Sprintf("customer-%d", i)
			request := client.Request{Topic: d.Topics.Checks, CustomerID: customer, Value: fmt.Appendf(nil, `{"customer_id":%q,"feature_id":"messages"}`, customer)}
			records = append(records, request.Record())
		}
		if err := d.Client.Send(t.Context(), records); err != nil {
			t.Fatal(err)
		}
	}
}

// notReady checks that a worker's /readyz answers 503 and says some words.
func notReady(t *testing.T, workerAddr string, words ...string) {
	t.Helper()
	status, body := proctest.Get(t, "http://"+workerAddr+"/readyz")
	if status != http.StatusServiceUnavailable {
		t.Errorf("/readyz answers %d", status)
	}
	for _, word := range words {
		if !strings.Contains(string(body), word) {
			t.Errorf("no %q at /readyz:\n%s", word, body)
		}
	}
}

// manyWait: the lag is large and constant. Nobody sends any more, nothing is fetched, and nothing is decided.
func manyWait(t *testing.T, k *realtest.Kafka) {
	const checks = 40_000
	r := realtest.StartRedis(t)
	d := proctest.NewDeploymentOn(t, servertest.BrokerAt(t, k.Addr), "--redis-addrs", r.Addr)
	_, workerAddr := d.StartReady(t)
	p := startPrometheus(t, hastyRules(t), workerAddr)
	p.awaitQuiet(1)

	r.Kill()
	send(t, d, checks)
	topic := fmt.Sprintf("topic=%q", d.Topics.Checks)
	p.awaitAlert("TollgateLag", topic)
	realtest.Until(t, "the whole lag is seen", func() bool { return p.value("tollgate:kafka_lag:sum{"+topic+"}") == fmt.Sprint(checks) })
	p.awaitAlert("TollgateRetries", `dependency="redis"`)
	p.awaitAlert("TollgatePartitionsStalled", "")
	p.awaitAlert("TollgateRecordsTooOld", topic)
	notReady(t, workerAddr, "redis: ", "connection refused", d.Topics.Checks+" 0-3 stand still", "40000 records waiting")
	// It is as it was, a minute and more later: a rule that waits for growth would be silent.
	if lag, growth := p.value("tollgate:kafka_lag:sum{"+topic+"}"), p.value("deriv(tollgate:kafka_lag:sum{"+topic+"}[20s])"); lag != fmt.Sprint(checks) || growth != "0" {
		t.Errorf("lag %s, growing by %s a second", lag, growth)
	}
	p.mustBeSilent("TollgateWorkerNotJoined")
	p.mustBeSilent("TollgatePartitionsBlocked")

	r.Start(t)
	for _, alert := range []string{"TollgateLag", "TollgatePartitionsStalled", "TollgateRecordsTooOld"} {
		p.awaitEnd(alert)
	}
}

// triesTimeOut: a try takes 5 s, and a pause follows. A rate of 0.2 a second is never reached.
func triesTimeOut(t *testing.T, k *realtest.Kafka) {
	r := realtest.StartRedis(t)
	d := proctest.NewDeploymentOn(t, servertest.BrokerAt(t, k.Addr), "--redis-addrs", r.Addr)
	_, workerAddr := d.StartReady(t)
	p := startPrometheus(t, hastyRules(t), workerAddr)
	p.awaitQuiet(1)

	r.Freeze(t)
	send(t, d, 1)
	p.awaitAlert("TollgateRetries", `dependency="redis"`)
	if rate := p.value(`max_over_time(rate(tollgate_retries_total{dependency="redis"}[30s])[1m:1s])`); rate == "" || rate > "0.3" {
		t.Errorf("%s tries a second: they do not time out", rate)
	}
	p.mustBeSilent("TollgateLag")
	p.awaitAlert("TollgatePartitionsStalled", "")
	notReady(t, workerAddr, "redis: ", "timeout", " stand still", "1 records waiting: redis script", "group: ok")
	r.Thaw(t)
	p.awaitEnd("TollgatePartitionsStalled")
}

// notInTheGroup: in the group of a second worker there is somebody with another protocol type, so that it cannot join.
// Once it can, the topics are those of another group, and it waits for an operator.
func notInTheGroup(t *testing.T, k *realtest.Kafka) {
	r := realtest.StartRedis(t)
	d := proctest.NewDeploymentOn(t, servertest.BrokerAt(t, k.Addr), "--redis-addrs", r.Addr)
	first, firstAddr := d.StartReady(t)
	other := d.Group + "-other"
	leave := joinAsStranger(t, k.Addr, other)
	_, secondAddr := d.Start(t, "--kafka-group", other)
	p := startPrometheus(t, hastyRules(t), firstAddr, secondAddr)

	p.awaitAlert("TollgateWorkerNotJoined", fmt.Sprintf("instance=%q", secondAddr))
	p.mustBeSilent("TollgateNoWorkerJoined")
	if p.has(fmt.Sprintf(`ALERTS{alertname="TollgateWorkerNotJoined",instance=%q}`, firstAddr)) {
		t.Error("the worker that is in its group is said not to be")
	}
	notReady(t, secondAddr, "group: not joined: join the group "+other, "Inconsistent Group Protocol")
	first.Stop(t)
	p.awaitAlert("TollgateNoWorkerJoined", "")
	p.mustBeSilent("TollgatePartitionsBlocked")

	leave()
	p.awaitAlert("TollgatePartitionsBlocked", "")
	notReady(t, secondAddr, "group: not joined: none of the partitions can go on", d.Topics.Checks+" 0-3 wait: ", "--reset-offsets")
	p.awaitEnd("TollgateWorkerNotJoined")
}

// joinAsStranger makes a group one of another protocol type, as Kafka Connect has, until leave is called.
func joinAsStranger(t *testing.T, addr, group string) (leave func()) {
	t.Helper()
	speaker, err := kgo.NewClient(kgo.SeedBrokers(addr))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(speaker.Close)
	const protocol, sessionMillis = "stranger", 600_000
	join := kmsg.NewPtrJoinGroupRequest()
	join.Group, join.ProtocolType, join.SessionTimeoutMillis, join.RebalanceTimeoutMillis = group, protocol, sessionMillis, sessionMillis
	join.Protocols = []kmsg.JoinGroupRequestProtocol{{Name: protocol}}
	joined, err := join.RequestWith(t.Context(), speaker)
	if err == nil && joined.Generation < 0 { // it is to come again with the id that it got
		join.MemberID = joined.MemberID
		joined, err = join.RequestWith(t.Context(), speaker)
	}
	if err != nil || joined.ErrorCode != 0 {
		t.Fatal(err, joined)
	}
	kind, name := protocol, protocol
	sync := kmsg.NewPtrSyncGroupRequest()
	sync.Group, sync.Generation, sync.MemberID, sync.ProtocolType, sync.Protocol = group, joined.Generation, joined.MemberID, &kind, &name
	sync.GroupAssignment = []kmsg.SyncGroupRequestGroupAssignment{{MemberID: joined.MemberID}}
	if synced, err := sync.RequestWith(t.Context(), speaker); err != nil || synced.ErrorCode != 0 {
		t.Fatal(err, synced)
	}
	return func() {
		t.Helper()
		leaving := kmsg.NewPtrLeaveGroupRequest()
		leaving.Group, leaving.MemberID = group, joined.MemberID
		leaving.Members = []kmsg.LeaveGroupRequestMember{{MemberID: joined.MemberID}}
		if left, err := leaving.RequestWith(t.Context(), speaker); err != nil || left.ErrorCode != 0 {
			t.Fatal(err, left)
		}
	}
}

// lost: what nobody will decide.
func lost(t *testing.T, k *realtest.Kafka) {
	const unread = 200
	r := realtest.StartRedis(t)
	d := proctest.NewDeploymentOn(t, servertest.BrokerAt(t, k.Addr), "--redis-addrs", r.Addr)
	worker, _ := d.StartReady(t)
	send(t, d, unread) // so that offsets are committed
	for partition := range proctest.Partitions {
		awaitCommitted(t, d, partition)
	}
	worker.Stop(t)
	send(t, d, unread)
	deleteRecords(t, k.Addr, d.Topics.Checks)
	_, workerAddr := d.StartReady(t)
	p := startPrometheus(t, hastyRules(t), workerAddr)
	p.awaitAlert("TollgateRecordsSkipped", fmt.Sprintf("topic=%q", d.Topics.Checks))
	if skipped := p.value("sum(tollgate:kafka_skipped_records:increase15m)"); skipped != fmt.Sprint(unread) {
		t.Errorf("%s of %d records were skipped", skipped, unread)
	}

	p.mustBeSilent("TollgateDeadLetters")
	record := client.Request{Topic: d.Topics.Checks, CustomerID: "acme", Value: []byte("{")}
	if err := d.Client.Send(t.Context(), []kafka.Message{record.Record()}); err != nil {
		t.Fatal(err)
	}
	p.awaitAlert("TollgateDeadLetters", `reason="unreadable"`)

	p.mustBeSilent("TollgateTopicsMissing")
	deleted, err := d.Broker.Client.DeleteTopics(t.Context(), &kafkago.DeleteTopicsRequest{Topics: []string{d.Topics.Commands}})
	if err = errors.Join(err, deleted.Errors[d.Topics.Commands]); err != nil {
		t.Fatal(err)
	}
	p.awaitAlert("TollgateTopicsMissing", "")
	notReady(t, workerAddr, "group: topics are missing", d.Topics.Commands)
}

func awaitCommitted(t *testing.T, d *proctest.Deployment, partition int) {
	t.Helper()
	end, err := d.Broker.LastOffset(t.Context(), d.Topics.Checks, partition)
	if err != nil {
		t.Fatal(err)
	}
	realtest.Until(t, "all is committed", func() bool {
		offsets, err := d.Broker.Committed(t.Context(), d.Group, d.Topics.Checks, []int{partition})
		return err == nil && offsets[partition] == end
	})
}

// deleteRecords deletes all that a topic has, as its retention would.
func deleteRecords(t *testing.T, addr, topic string) {
	t.Helper()
	speaker, err := kgo.NewClient(kgo.SeedBrokers(addr))
	if err != nil {
		t.Fatal(err)
	}
	defer speaker.Close()
	const toTheEnd, timeoutMillis = -1, 10_000
	request := kmsg.NewPtrDeleteRecordsRequest()
	request.TimeoutMillis = timeoutMillis
	about := kmsg.DeleteRecordsRequestTopic{Topic: topic}
	for partition := range int32(proctest.Partitions) {
		about.Partitions = append(about.Partitions, kmsg.DeleteRecordsRequestTopicPartition{Partition: partition, Offset: toTheEnd})
	}
	request.Topics = []kmsg.DeleteRecordsRequestTopic{about}
	response, err := request.RequestWith(t.Context(), speaker)
	if err != nil {
		t.Fatal(err)
	}
	for _, partition := range response.Topics[0].Partitions {
		if partition.ErrorCode != 0 {
			t.Fatalf("delete records: %+v", partition)
		}
	}
}
