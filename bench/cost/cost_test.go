//go:build bench

// Package cost measures what a check costs Redis, and what a customer takes there: `make
// bench-cost`. It drives the engine without Kafka and needs of the project only what
// rarely changes, so that it runs on other commits, too (compare).
package cost

import (
	"bufio"
	_ "embed"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
)

var (
	rounds    = flag.Int("rounds", 3, "rounds of every workload; the median counts")
	checks    = flag.Int("checks", 60_000, "checks in a round")
	customers = flag.Int("customers", 1_000_000, "customers of the workload many_customers; a tenth of them with a profile")
	rows      = flag.Bool("rows", false, "also measure catalogues with 100 and 1,000 items of the feature")
	only      = flag.String("only", "", "names of the workloads to measure, with commas; none: all")
	wait      = flag.Bool("wait", false, "before each round, wait for a line on standard input")
)

//go:embed catalog.yaml
var catalogText []byte

const (
	usualCustomers = 1000
	entitiesEach   = 5
	grantsEach     = 4 // beside the plan's balance
)

// workload is a kind of check, of a kind of customer.
type workload struct {
	name    string
	catalog []byte // nil: catalog.yaml
	// commands make a customer; nil: pro.
	commands func(customer string) []string
	body     func(i int, customer string) string
}

func plain(_ int, customer string) string {
	return fmt.Sprintf(`{"customer_id":"%s","feature_id":"messages","required_balance":1}`, customer)
}

func sendEvent(_ int, customer string) string {
	return fmt.Sprintf(`{"customer_id":"%s","feature_id":"messages","required_balance":1,"send_event":true}`, customer)
}

func perEntity(i int, customer string) string {
	// In turn for each customer: a partition's customers are a multiple of the entities.
	entity := i / (usualCustomers / partitions) % entitiesEach
	return fmt.Sprintf(`{"customer_id":"%s","feature_id":"messages","entity_id":"seat-%d","required_balance":1,"send_event":true}`, customer, entity)
}

func credits(_ int, customer string) string {
	return fmt.Sprintf(`{"customer_id":"%s","feature_id":"gpt_tokens","required_balance":37,"send_event":true}`, customer)
}

// twoPools asks for more images than the plan grants, so that the rest would come from credits.
func twoPools(_ int, customer string) string {
	return fmt.Sprintf(`{"customer_id":"%s","feature_id":"images","required_balance":120}`, customer)
}

// lock holds one. Locks last longer than the run: a customer holds some sixty in the end.
func lock(_ int, customer string) string {
	return fmt.Sprintf(`{"customer_id":"%s","feature_id":"messages","required_balance":1,"lock":{"enabled":true}}`, customer)
}

func pro(customer string) []string {
	return []string{
		fmt.Sprintf(`{"type":"customer.put","customer_id":"%s"}`, customer),
		fmt.Sprintf(`{"type":"plan.attach","customer_id":"%s","plan_id":"pro"}`, customer),
	}
}

func proWithGrants(customer string) []string {
	commands := pro(customer)
	for n := range grantsEach {
		commands = append(commands, fmt.Sprintf(
			`{"type":"balance.grant","customer_id":"%s","feature_id":"messages","balance_id":"extra-%d","amount":1000000000}`, customer, n))
	}
	return commands
}

func proWithEntities(customer string) []string {
	commands := append(pro(customer), fmt.Sprintf(`{"type":"plan.attach","customer_id":"%s","plan_id":"team"}`, customer))
	for n := range entitiesEach {
		commands = append(commands, fmt.Sprintf(
			`{"type":"entity.create","customer_id":"%s","entity_id":"seat-%d","feature_id":"seats"}`, customer, n))
	}
	return commands
}

// proWithProfile has a name of 20 bytes, an email address of 25 and metadata of 80.
func proWithProfile(customer string) []string {
	commands := pro(customer)
	number, _ := strconv.Atoi(strings.TrimPrefix(customer, "customer-"))
	digits := fmt.Sprintf("%07d", number)
	commands[0] = fmt.Sprintf(`{"type":"customer.put","customer_id":"%s","name":"Ada Lovelace %s","email":"ada.%s@example.local",`+
		`"metadata":{"account_manager":"Grace Hopper","region":"eu-central-1","crmid":"crm-%s"}}`, customer, digits, digits, digits)
	return commands
}

// manyRows is the catalogue with more plans that include messages.
func manyRows(n int) []byte {
	text := slices.Clone(catalogText)
	for i := range n - 2 { // pro and team have one each
		text = fmt.Appendf(text, "  - {id: plan-%d, group: group-%d, items: [{feature_id: messages, included: 100, reset: {interval: month}}]}\n", i, i)
	}
	return text
}

func TestCost(t *testing.T) {
	workloads := []workload{
		{name: "send_event", body: sendEvent},
		{name: "plain", body: plain},
		{name: "balances_5", commands: proWithGrants, body: sendEvent},
		{name: "per_entity", commands: proWithEntities, body: perEntity},
		{name: "credit_system", body: credits},
		{name: "two_pools", body: twoPools},
		{name: "lock", body: lock},
	}
	if *rows {
		workloads = append(workloads,
			workload{name: "rows_100", catalog: manyRows(100), body: plain},
			workload{name: "rows_1000", catalog: manyRows(1000), body: plain})
	}
	for _, load := range workloads {
		measured(t, load.name, func(t *testing.T) { inTurn(t, load) })
	}
	measured(t, "many_customers", manyCustomers)
	measured(t, "many_customers_with_profile", func(t *testing.T) {
		provisionMany(t, "many_customers_with_profile", *customers/10, proWithProfile)
	})
}

// measured runs a workload in its turn, unless others were asked for.
func measured(t *testing.T, name string, run func(*testing.T)) {
	if *only != "" && !slices.Contains(strings.Split(*only, ","), name) {
		return
	}
	t.Run(name, func(t *testing.T) {
		awaitTurn(t)
		run(t)
	})
}

// inTurn measures checks of a thousand customers, one after the other.
func inTurn(t *testing.T, load workload) {
	if load.catalog == nil {
		load.catalog = catalogText
	}
	if load.commands == nil {
		load.commands = pro
	}
	w := newWorker(t, load.catalog, usualCustomers)
	w.provision(load.commands)
	measure(w, load.name, func(checks, _ int) {
		w.check(checks, func(_, i int) int { return i % (usualCustomers / partitions) }, load.body)
	})
}

// manyCustomers measures checks of customers drawn at random.
func manyCustomers(t *testing.T) {
	w := provisionMany(t, "many_customers", *customers, pro)
	measure(w, "many_customers", func(checks, round int) {
		var random [partitions]*rand.Rand
		for id := range random {
			random[id] = rand.New(rand.NewPCG(uint64(round), uint64(id)))
		}
		w.check(checks, func(id, _ int) int { return random[id].IntN(*customers / partitions) }, sendEvent)
	})
}

// provisionMany reports what customers take that have had a check and are at rest: commands
// and outcomes are committed and forgotten.
func provisionMany(t *testing.T, name string, customers int, commands func(customer string) []string) *worker {
	w := newWorker(t, catalogText, customers)
	before := w.redis.usedBytes()
	w.provision(commands)
	w.forEach(&w.checks, `"allowed":true`, func(n int) []request { return []request{{n, sendEvent(n, customerName(n))}} })
	fmt.Printf("cost: %s bytes_per_customer=%.0f\n", name, (w.redis.usedBytes()-before)/float64(customers))
	return w
}

// measure reports the median of some rounds. The first one's turn has come already.
func measure(w *worker, name string, run func(checks, round int)) {
	const warmUp = 0
	run(*checks/10, warmUp)
	var all []float64
	for round := 1; round <= *rounds; round++ {
		if round > 1 {
			awaitTurn(w.T)
		}
		before := w.redis.cpuMicros()
		run(*checks, round)
		perCheck := (w.redis.cpuMicros() - before) / float64(*checks)
		fmt.Printf("cost: %s round %d: %.2f\n", name, round, perCheck)
		all = append(all, perCheck)
	}
	slices.Sort(all)
	fmt.Printf("cost: %s redis_us_per_check=%.2f\n", name, all[len(all)/2])
}

var input = bufio.NewReader(os.Stdin)

// awaitTurn leaves the machine to another process that measures, until this one's turn
// comes.
func awaitTurn(t *testing.T) {
	t.Helper()
	if !*wait {
		return
	}
	fmt.Println("cost: waiting")
	if _, err := input.ReadString('\n'); err != nil {
		t.Fatal("nobody gives the turn any more")
	}
}
