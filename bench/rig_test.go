//go:build bench

package bench

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	kafkago "github.com/segmentio/kafka-go"

	"tollgate/internal/balance"
	"tollgate/internal/catalog"
	"tollgate/internal/client"
	"tollgate/internal/kafka"
	"tollgate/internal/proctest"
	"tollgate/internal/realtest"
	"tollgate/internal/servertest"
	"tollgate/internal/store"
	"tollgate/internal/wire"
)

const (
	customers  = 1000
	partitions = 4
	pipeline   = 500 // records a batch, and calls a pipeline
)

// rig is the servers and what measures them.
type rig struct {
	*testing.T
	kafkaAddr string
	broker    kafka.Broker
	brokerPID int
	redis     *realtest.Redis
	redisPID  int
	catalog   *balance.Catalog
	file      string // of the catalogue
	items     *store.Items
}

func newRig(t *testing.T) *rig {
	r := &rig{T: t}
	r.startBroker()
	r.broker = servertest.BrokerAt(t, r.kafkaAddr)
	r.redis = realtest.StartRedis(t)
	info, err := r.redis.Client.Info(t.Context(), "server").Result()
	if err != nil {
		t.Fatal(err)
	}
	r.redisPID, _ = strconv.Atoi(field(info, "process_id"))
	if r.file, err = filepath.Abs("catalog.yaml"); err != nil {
		t.Fatal(err)
	}
	if r.catalog, err = catalog.Load(r.file); err != nil {
		t.Fatal(err)
	}
	r.items = store.NewItems(r.catalog)
	return r
}

// field is a line of Redis's INFO.
func field(info, name string) string {
	_, rest, _ := strings.Cut(info, name+":")
	value, _, _ := strings.Cut(rest, "\r\n")
	return value
}

func (r *rig) startBroker() {
	command := exec.Command(proctest.BuildPackage(r, "tollgate/bench/broker"))
	stdin, err := command.StdinPipe()
	if err != nil {
		r.Fatal(err)
	}
	stdout, err := command.StdoutPipe()
	if err != nil {
		r.Fatal(err)
	}
	if err := command.Start(); err != nil {
		r.Fatal(err)
	}
	r.Cleanup(func() {
		_ = stdin.Close()
		_ = command.Wait()
	})
	line, err := bufio.NewReader(stdout).ReadString('\n')
	if err != nil {
		r.Fatal(err)
	}
	r.kafkaAddr, r.brokerPID = strings.TrimSpace(line), command.Process.Pid
}

// cpu is the processor time that a process has used (Linux).
func (r *rig) cpu(pid int) time.Duration {
	r.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		r.Fatal(err)
	}
	fields := strings.Fields(string(text[strings.LastIndexByte(string(text), ')')+1:]))
	user, _ := strconv.Atoi(fields[11])
	system, _ := strconv.Atoi(fields[12])
	const ticksPerSecond = 100 // USER_HZ
	return time.Duration(user+system) * time.Second / ticksPerSecond
}

// redisBytes is what Redis has read and written.
func (r *rig) redisBytes() (in, out float64) {
	r.Helper()
	info, err := r.redis.Client.Info(r.Context(), "stats").Result()
	if err != nil {
		r.Fatal(err)
	}
	in, _ = strconv.ParseFloat(field(info, "total_net_input_bytes"), 64)
	out, _ = strconv.ParseFloat(field(info, "total_net_output_bytes"), 64)
	return in, out
}

// bench is a set of topics and a key space with customers in it.
type bench struct {
	*rig
	name   string
	topics wire.Topics
	store  *store.Store
	client *client.Client
	offset int64
	// All steps are taken as of now, and with the same committed offset.
	now       time.Time
	committed int64
}

// newBench makes topics with so many partitions. end removes them, and the keys.
func (r *rig) newBench(partitions int) (b *bench, end func()) {
	r.Helper()
	name := servertest.Unique("bench")
	b = &bench{rig: r, name: name, now: time.Now(), client: client.New(r.broker, servertest.Silent()), topics: wire.Topics{
		Checks: name + ".checks", CheckResults: name + ".check-results", UsageEvents: name + ".usage-events",
		Commands: name + ".commands", CommandResults: name + ".command-results", DeadLetters: name + ".dead-letters",
	}}
	servertest.CreateTopics(r, r.broker, partitions, b.topics.All()...)
	var err error
	if b.store, err = store.New(r.redis.Client, store.Options{Prefix: name + ":"}); err != nil {
		r.Fatal(err)
	}
	return b, func() {
		if err := r.redis.Client.WithTimeout(time.Minute).FlushAll(context.Background()).Err(); err != nil { // a million customers take a while
			r.Fatal(err)
		}
		if _, err := r.broker.Client.DeleteTopics(context.Background(), &kafkago.DeleteTopicsRequest{Topics: b.topics.All()}); err != nil {
			r.Fatal(err)
		}
	}
}

func customerName(n int) string { return fmt.Sprintf("customer-%d", n) }

func (b *bench) source(customer int) string {
	return store.Source("bench", b.topics.Checks, customer%partitions, "")
}

// step is that of a record of its own: nothing of it is ever delivered again.
func (b *bench) step(customer int) store.Step {
	b.offset++
	return store.Step{
		Customer: customerName(customer), Remember: true, Origin: store.Origin{
			Source: b.source(customer), Offset: b.offset,
			TimestampMs: time.Now().UnixMilli(), Committed: b.committed,
		},
	}
}

// run sends calls in pipelines.
func (b *bench) run(calls []store.Call) {
	b.Helper()
	for len(calls) > 0 {
		n := min(len(calls), pipeline)
		replies, err := b.store.Run(b.Context(), b.now, calls[:n])
		if err != nil {
			b.Fatal(err)
		}
		for _, reply := range replies {
			if reply.Err != nil {
				b.Fatal(reply.Err)
			}
		}
		calls = calls[n:]
	}
}

// provision makes customers with the plan pro.
func (b *bench) provision(customers int) {
	b.Helper()
	b.provisionAs(customers, customerName)
}

func (b *bench) provisionAs(customers int, name func(n int) string) {
	b.Helper()
	for from := 0; from < customers; from += pipeline {
		var calls []store.Call
		for n := from; n < min(from+pipeline, customers); n++ {
			put, attach := b.step(n), b.step(n)
			put.Customer, attach.Customer = name(n), name(n)
			calls = append(calls, b.store.CustomerPut(put, b.items, "", "", ""),
				b.store.PlanAttach(attach, b.items, b.catalog.Plan("pro"), nil, time.Time{}, 0))
		}
		b.run(calls)
		b.forget()
	}
}

// forget drops the outcomes of all steps, as a worker does.
func (b *bench) forget() {
	b.Helper()
	for partition := range partitions {
		if err := b.store.Forget(b.Context(), b.source(partition), b.offset+1, nil); err != nil {
			b.Fatal(err)
		}
	}
}

// send produces requests.
func (b *bench) send(n int, value func(i int) (customer int, body string)) {
	b.Helper()
	const atOnce = 5000
	for from := 0; from < n; from += atOnce {
		var records []kafka.Message
		for i := from; i < min(from+atOnce, n); i++ {
			customer, body := value(i)
			request := client.Request{Topic: b.topics.Checks, CustomerID: customerName(customer), Value: []byte(body), Headers: []kafka.Header{
				client.Header("request-id", fmt.Sprintf("request-%d", i)),
			}}
			records = append(records, request.Record())
		}
		if err := b.client.Send(b.Context(), records); err != nil {
			b.Fatal(err)
		}
	}
}

// written is how many records a topic has.
func (b *bench) written(topic string, partitions int) (sum int64) {
	b.Helper()
	for partition := range partitions {
		end, err := b.broker.LastOffset(b.Context(), topic, partition)
		if err != nil {
			b.Fatal(err)
		}
		sum += end
	}
	return sum
}

// startWorker starts a worker on the bench's topics.
func (b *bench) startWorker(flags ...string) (worker *proctest.Process, httpAddr string) {
	b.Helper()
	httpAddr = proctest.FreeAddr(b)
	return proctest.Start(b, "worker", append([]string{
		"run", "--kafka-brokers", b.kafkaAddr, "--redis-addrs", b.redis.Addr, "--catalog", b.file, "--kafka-group", b.name,
		"--redis-prefix", b.name + ":", "--http-addr", httpAddr, "--log-level", "warn",
		"--topic-checks", b.topics.Checks, "--topic-check-results", b.topics.CheckResults,
		"--topic-usage-events", b.topics.UsageEvents, "--topic-commands", b.topics.Commands,
		"--topic-command-results", b.topics.CommandResults, "--topic-dead-letters", b.topics.DeadLetters,
	}, flags...)...), httpAddr
}
