package engine_test

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/segmentio/kafka-go"

	"tollgate/deploy"
	"tollgate/internal/balance"
	"tollgate/internal/stream"
	"tollgate/internal/wire"
)

// TestAFrozenWorkerIsToldThatItLostItsPartition is fault 1, as two workers see it.
func TestAFrozenWorkerIsToldThatItLostItsPartition(t *testing.T) {
	r := newRig(t, string(deploy.Catalog))
	batch := stream.Batch{Topic: topics.Checks, Generation: 1, Records: []kafka.Message{
		r.record(topics.Checks, `{"customer_id":"acme","feature_id":"messages","send_event":true,"required_balance":2}`),
		r.record(topics.Checks, `{"customer_id":"stranger","feature_id":"messages","send_event":true}`),
		r.record(topics.Checks, `{"customer_id":"acme","feature_id":"messages","send_event":true}`),
	}}
	frozen, successor := r.engine.Partition(topics.Checks, 0), r.engine.Partition(topics.Checks, 0)
	first, err := frozen.Decide(t.Context(), batch) // whose reply never arrived
	if err != nil {
		t.Fatal(err)
	}
	next := batch
	next.Generation = 2
	second, err := successor.Decide(t.Context(), next)
	if err != nil || fmt.Sprint(values(second.Records)) != fmt.Sprint(values(first.Records)) {
		t.Fatalf("%v: first %q, then %q", err, values(first.Records), values(second.Records))
	}
	r.rest(successor, r.offsets[topics.Checks])
	for range 3 {
		if out, err := frozen.Decide(t.Context(), batch); !errors.Is(err, stream.ErrPartitionLost) {
			t.Errorf("%v, %q", err, values(out.Records))
		}
	}
	if left := r.remaining("messages"); left != "2" {
		t.Errorf("%s left, want 2", left)
	}
}

// TestAPlanIsAttachedAsAWholeOrNotAtAll is fault 15: the old plan was gone, the new one there in part, and
// sending the command again changed nothing.
func TestAPlanIsAttachedAsAWholeOrNotAtAll(t *testing.T) {
	r := newRig(t, string(deploy.Catalog))
	const attach = `{"type":"plan.attach","customer_id":"acme","plan_id":"team"}`
	r.command(`{"type":"balance.grant","customer_id":"acme","feature_id":"seats","amount":3}`)
	r.command(`{"type":"entity.create","customer_id":"acme","entity_id":"ann","feature_id":"seats"}`)
	r.command(`{"type":"entity.create","customer_id":"acme","entity_id":"bob","feature_id":"seats"}`)
	key := r.prefix + "{acme}:e:bob"
	sound := r.client.Get(t.Context(), key).Val()
	before := r.command(`{"type":"customer.get","customer_id":"acme"}`)
	if err := r.client.Set(t.Context(), key, "\xc1", 0).Err(); err != nil {
		t.Fatal(err)
	}
	record := r.record(topics.Commands, attach)
	out := r.decide(record)
	if len(out) != 2 || out[1].Topic != topics.DeadLetters || read[commandResult](t, out[0]).code() != balance.InternalError {
		t.Fatalf("got %q", values(out))
	}
	if err := r.client.Set(t.Context(), key, sound, 0).Err(); err != nil {
		t.Fatal(err)
	}
	after := r.command(`{"type":"customer.get","customer_id":"acme"}`)
	if !reflect.DeepEqual(before, after) {
		t.Errorf("was %+v\nis %+v", before, after)
	}
	again := r.decide(record)
	if string(again[0].Value) != string(out[0].Value) {
		t.Errorf("redelivered: %s\nfirst: %s", again[0].Value, out[0].Value)
	}
	if pool := r.command(attach).Balances["messages"]; pool.Granted.String() != "60" {
		t.Errorf("sent again, %s are granted, want 60", pool.Granted)
	}
}

// TestAResultOfManyEntitiesIsOneThatABrokerTakes is fault 6: of 6,500 entities no result could be written,
// and they were deducted.
func TestAResultOfManyEntitiesIsOneThatABrokerTakes(t *testing.T) {
	const entities = 130
	r := newRig(t, string(deploy.Catalog))
	r.command(`{"type":"balance.grant","customer_id":"acme","feature_id":"seats","amount":1000}`)
	r.command(`{"type":"plan.attach","customer_id":"acme","plan_id":"team"}`)
	var records []kafka.Message
	for n := range entities {
		records = append(records, r.record(topics.Commands, fmt.Sprintf(`{"type":"entity.create","customer_id":"acme","entity_id":"e%d","feature_id":"seats"}`, n)))
	}
	r.decide(records...)
	out := r.decide(r.record(topics.Checks, fmt.Sprintf(`{"customer_id":"acme","feature_id":"messages","send_event":true,"required_balance":%d}`, entities*30-7)))
	result := read[wire.ResultRecord](t, out[0])
	pool := result.Balance
	if !result.Allowed || pool.Granted != "3900" || pool.Remaining != "7" || pool.Usage != "3893" {
		t.Errorf("%s: %s granted, %s left, %s used", result.Code, pool.Granted, pool.Remaining, pool.Usage)
	}
	if len(pool.Breakdown) != 100 || !pool.BreakdownTruncated {
		t.Errorf("%d balances are shown, truncated: %t", len(pool.Breakdown), pool.BreakdownTruncated)
	}
	const most = 256 << 10
	for _, record := range out {
		if len(record.Value) > most {
			t.Errorf("%s: %d bytes", record.Topic, len(record.Value))
		}
	}
	for name, pool := range r.command(`{"type":"customer.get","customer_id":"acme"}`).Balances {
		if name == "messages" && (len(pool.Breakdown) != 100 || pool.Remaining != "7") {
			t.Errorf("customer.get shows %d balances, %s left", len(pool.Breakdown), pool.Remaining)
		}
	}
}

// TestAnIdempotencyKeyAnswersOneQuestion is fault 8: it said that a customer may use what it does not have.
func TestAnIdempotencyKeyAnswersOneQuestion(t *testing.T) {
	r := newRig(t, string(deploy.Catalog))
	r.command(`{"type":"plan.attach","customer_id":"acme","plan_id":"pro"}`)
	r.command(`{"type":"entity.create","customer_id":"acme","entity_id":"ann","feature_id":"seats"}`)
	key := []string{wire.HeaderIdempotencyKey, "k"}
	const asked = `{"customer_id":"acme","feature_id":"messages","send_event":true,"required_balance":2}`
	first := r.check(asked, key...)
	for name, value := range map[string]string{
		"another feature":          `{"customer_id":"acme","feature_id":"images","send_event":true,"required_balance":2}`,
		"a feature that it has no": `{"customer_id":"acme","feature_id":"gpt_tokens","send_event":true,"required_balance":2}`,
		"a flag":                   `{"customer_id":"acme","feature_id":"sso"}`,
		"another amount":           `{"customer_id":"acme","feature_id":"messages","send_event":true,"required_balance":3}`,
		"the opposite amount":      `{"customer_id":"acme","feature_id":"messages","send_event":true,"required_balance":-2}`,
		"an entity":                `{"customer_id":"acme","feature_id":"messages","entity_id":"ann","send_event":true,"required_balance":2}`,
		"the default amount":       `{"customer_id":"acme","feature_id":"messages","send_event":true}`,
	} {
		result := r.check(value, key...)
		if result.Code != balance.IdempotencyConflict || result.Allowed || result.UsageEventID != "" {
			t.Errorf("%s: %s", name, result.Code)
		}
	}
	for _, value := range []string{
		`{"type":"usage.track","customer_id":"acme","feature_id":"messages","value":2}`,
		`{"type":"balance.grant","customer_id":"acme","feature_id":"messages","amount":2}`,
		`{"type":"plan.attach","customer_id":"acme","plan_id":"enterprise"}`,
		`{"type":"customer.delete","customer_id":"acme"}`,
	} {
		if result := r.answer(value, key...); result.code() != balance.IdempotencyConflict {
			t.Errorf("%s: %+v", value, result.Error)
		}
	}
	for _, value := range []string{asked, strings.Replace(asked, "2}", "2.0}", 1), strings.Replace(asked, "2}", `2,"properties":{"a":1}}`, 1)} {
		if result := r.check(value, key...); result.UsageEventID != first.UsageEventID || result.UsageEventID == "" || !result.Allowed {
			t.Errorf("%s: %+v, first %+v", value, result, first)
		}
	}
	if left := r.remaining("messages"); left != "98" {
		t.Errorf("%s left, want 98", left)
	}
	// Of a command's fields another value is another question.
	track := `{"type":"usage.track","customer_id":"acme","feature_id":"messages","value":3}`
	other := []string{wire.HeaderIdempotencyKey, "of tracking"}
	event := r.command(track, other...).UsageEventID
	for _, value := range []string{
		strings.Replace(track, `"value":3`, `"value":4`, 1),
		strings.Replace(track, `"messages"`, `"images"`, 1),
		strings.Replace(track, `"value":3`, `"value":3,"overage_behavior":"allow"`, 1),
		strings.Replace(track, `"value":3`, `"value":3,"entity_id":"ann"`, 1),
	} {
		if result := r.answer(value, other...); result.code() != balance.IdempotencyConflict {
			t.Errorf("%s: %+v", value, result.Error)
		}
	}
	if result := r.command(track, other...); result.UsageEventID != event {
		t.Errorf("got the event %s, want %s", result.UsageEventID, event)
	}
	// With its customer the key ends, and that of the deletion too.
	for range 2 {
		result := r.command(`{"type":"customer.delete","customer_id":"acme"}`, wire.HeaderIdempotencyKey, "of deleting")
		if result.code() != "" {
			t.Errorf("got %+v", result.Error)
		}
		if code := r.answer(`{"type":"customer.get","customer_id":"acme"}`).code(); code != balance.CustomerNotFound {
			t.Errorf("deleted, it is answered %q", code)
		}
		r.command(`{"type":"customer.put","customer_id":"acme"}`)
		if result := r.check(asked, key...); result.UsageEventID == first.UsageEventID || !result.Allowed {
			t.Errorf("the next customer got %+v", result)
		}
	}
}

// TestStrangersLeaveNothingInRedis is fault 9, by way of records.
func TestStrangersLeaveNothingInRedis(t *testing.T) {
	const strangers, atOnce = 2500, 500
	r := newRig(t, string(deploy.Catalog))
	keys := func() (endless, all []string) {
		for _, key := range r.client.Keys(t.Context(), r.prefix+"{*").Val() {
			if strings.Contains(key, "{acme}") {
				continue
			}
			all = append(all, key)
			if r.client.PTTL(t.Context(), key).Val() <= 0 {
				endless = append(endless, key)
			}
		}
		return endless, all
	}
	for _, topic := range []string{topics.Checks, topics.Commands} {
		decider := r.engine.Partition(topic, 0)
		for from := 0; from < strangers; from += atOnce {
			batch := stream.Batch{Topic: topic, Committed: r.offsets[topic]}
			for n := range atOnce {
				value := fmt.Sprintf(`{"type":"balance.grant","amount":1,"customer_id":"stranger-%s-%d","feature_id":"messages","send_event":true}`, topic, from+n)
				batch.Records = append(batch.Records, r.record(topic, value, wire.HeaderIdempotencyKey, fmt.Sprint(n)))
			}
			if _, err := decider.Decide(t.Context(), batch); err != nil {
				t.Fatal(err)
			}
		}
		if endless, all := keys(); len(endless) > 0 {
			t.Errorf("%s: %d of %d keys have no end, as %s", topic, len(endless), len(all), endless[0])
		}
		r.rest(decider, r.offsets[topic])
		if _, all := keys(); len(all) > 0 {
			t.Errorf("%s: committed and at rest, %d keys are left, as %s", topic, len(all), all[0])
		}
	}
}

// TestABalanceIDIsTheGiversOrMadeHere is fault 12: a grant could take the id of a plan's balance, or one
// that was to be made up.
func TestABalanceIDIsTheGiversOrMadeHere(t *testing.T) {
	r := newRig(t, string(deploy.Catalog))
	grant := func(id string) commandResult {
		return r.answer(fmt.Sprintf(`{"type":"balance.grant","customer_id":"acme","feature_id":"messages","amount":1,"balance_id":%q}`, id))
	}
	for id, want := range map[string]balance.Code{
		"pro/messages": balance.InvalidRequest, "free/messages": balance.InvalidRequest, "/": balance.InvalidRequest, "pro/messages@ann": balance.InvalidRequest,
		"auto-1": balance.InvalidRequest, "auto-": balance.InvalidRequest, "grant-3": "", "gift": "", "1": "", "auto": "", "free": "",
	} {
		if result := grant(id); result.code() != want || want == "" && result.BalanceID != id {
			t.Errorf("%s: %q (%s), want %q", id, result.code(), result.BalanceID, want)
		}
	}
	for _, id := range []string{"grant-3", "gift"} {
		if code := grant(id).code(); code != balance.Conflict {
			t.Errorf("%s once more: %q", id, code)
		}
	}
	made := map[string]bool{}
	for range 20 {
		result := r.command(`{"type":"balance.grant","customer_id":"acme","feature_id":"messages","amount":1}`)
		if made[result.BalanceID] || result.BalanceID == "" {
			t.Errorf("%q is made up twice", result.BalanceID)
		}
		made[result.BalanceID] = true
	}
	seen := map[string]bool{}
	for _, shown := range r.command(`{"type":"customer.get","customer_id":"acme"}`).Balances["messages"].Breakdown {
		if seen[shown.ID] {
			t.Errorf("two balances have the id %s", shown.ID)
		}
		seen[shown.ID] = true
	}
	for id := range made { // each can be meant
		r.command(fmt.Sprintf(`{"type":"balance.update","customer_id":"acme","feature_id":"messages","balance_id":%q,"add":1}`, id))
	}
	if !seen["free/messages"] || r.remaining("messages") != fmt.Sprint(5+5+20+20) {
		t.Errorf("%s left of %v", r.remaining("messages"), seen)
	}
}

// TestGivingBackInSmallAmountsReturnsNoMoreThanWasTaken is fault 17: each was rounded away from zero.
func TestGivingBackInSmallAmountsReturnsNoMoreThanWasTaken(t *testing.T) {
	const catalogue = `
features:
  - {id: calls, type: metered, precision: 0}
  - {id: credits, type: credit_system, precision: %d, credit_schema: [{feature_id: calls, credit_cost: %s}]}
plans:
  - id: free
    default: true
    items:
      - {feature_id: credits, included: 1000}
`
	for _, c := range []struct {
		precision    int
		cost         string
		taken, after string // left when 90 are taken at once, and when they are given back one by one
	}{
		{0, "0.1", "991", "991"}, {0, "0.9", "919", "919"}, {0, "1", "910", "1000"}, {0, "1.5", "865", "955"},
		{1, "0.15", "986.5", "995.5"}, {2, "0.333", "970.03", "999.73"}, {3, "0.333", "970.03", "1000"}, {0, "3", "730", "1000"},
	} {
		r := newRig(t, fmt.Sprintf(catalogue, c.precision, c.cost))
		r.check(`{"customer_id":"acme","feature_id":"calls","send_event":true,"required_balance":90}`)
		if left := r.remaining("credits"); left != c.taken {
			t.Errorf("at %s credits: %s left, want %s", c.cost, left, c.taken)
		}
		var records []kafka.Message
		for range 90 {
			records = append(records, r.record(topics.Checks, `{"customer_id":"acme","feature_id":"calls","send_event":true,"required_balance":-1}`))
		}
		r.decide(records...)
		if left := r.remaining("credits"); left != c.after {
			t.Errorf("at %s credits, given back one by one: %s left, want %s", c.cost, left, c.after)
		}
		for range 20 { // what was given back is not given back again
			r.check(`{"customer_id":"acme","feature_id":"calls","send_event":true,"required_balance":-1000}`)
		}
		if left := r.remaining("credits"); left != "1000" {
			t.Errorf("at %s credits, all given back: %s left", c.cost, left)
		}
	}
}

// TestAnEntryThatFailedIsADeadLetterOnceMoreAndTheOthersAreRepeated is fault 2, as a redelivery sees it.
func TestAnEntryThatFailedIsADeadLetterOnceMoreAndTheOthersAreRepeated(t *testing.T) {
	r := newRig(t, string(deploy.Catalog))
	r.command(`{"type":"balance.grant","customer_id":"acme","feature_id":"seats","amount":1}`)
	r.command(`{"type":"entity.create","customer_id":"acme","entity_id":"ann","feature_id":"seats"}`)
	key := r.prefix + "{acme}:e:ann"
	sound := r.client.Get(t.Context(), key).Val()
	if err := r.client.Set(t.Context(), key, "\xc1", 0).Err(); err != nil {
		t.Fatal(err)
	}
	batch := []kafka.Message{
		r.record(topics.Checks, `{"customer_id":"acme","feature_id":"messages","send_event":true,"required_balance":2}`),
		r.record(topics.Checks, `{"customer_id":"acme","feature_id":"messages","entity_id":"ann","send_event":true}`),
		r.record(topics.Checks, `{"customer_id":"acme","feature_id":"messages","send_event":true}`),
	}
	first := r.decide(batch...)
	if len(first) != 6 || first[3].Topic != topics.DeadLetters {
		t.Fatalf("got %q", values(first))
	}
	if err := r.client.Set(t.Context(), key, sound, 0).Err(); err != nil {
		t.Fatal(err)
	}
	r.now = r.now.Add(time.Minute)
	for range 3 {
		again := r.decide(batch...)
		first[3], again[3] = kafka.Message{}, kafka.Message{} // a dead letter says when it was written
		if fmt.Sprint(values(again)) != fmt.Sprint(values(first)) {
			t.Errorf("first %q\nthen %q", values(first), values(again))
		}
	}
	if left := r.remaining("messages"); left != "2" {
		t.Errorf("%s left, want 2", left)
	}
}

// TestARestThatFailsWaitsForTheNextRecord is a regression: it was tried, and warned of, every 10 ms for as long as Redis
// was away.
func TestARestThatFailsWaitsForTheNextRecord(t *testing.T) {
	r := newRig(t, string(deploy.Catalog))
	r.command(`{"type":"customer.put","customer_id":"acme"}`)
	away, cancel := context.WithCancel(r.Context())
	cancel()
	if r.deciders[topics.Commands].Rest(away, r.offsets[topics.Commands]) {
		t.Error("it is to be tried again at once")
	}
}

// TestAFailureIsKeptWhateverElseCannotBeRead is a regression: a record that was answered internal_error, since something
// beside its customer could not be read, was carried out when it came again after that was repaired.
func TestAFailureIsKeptWhateverElseCannotBeRead(t *testing.T) {
	const text = `
features:
  - {id: m, type: metered, precision: 0}
  - {id: seats, type: metered, consumable: false, precision: 0}
plans: [{id: free, default: true, items: [{feature_id: seats, unlimited: true}, {feature_id: m, included: 10, per_entity: seats, reset: {interval: day}}]}]
`
	for _, c := range []struct {
		name string
		// harm spoils a key and returns what repairs it.
		harm  func(r *rig) (repair func())
		topic string
		body  string
	}{
		{"an idempotency key of another type", func(r *rig) func() {
			key := r.prefix + "{acme}:i:k"
			r.client.RPush(r.Context(), key, "x")
			return func() { r.client.Del(r.Context(), key) }
		}, topics.Checks, `{"customer_id":"acme","feature_id":"m","required_balance":3,"send_event":true}`},
		{"a directory of entities, while resets are due", func(r *rig) func() {
			key := r.prefix + "{acme}:d:0"
			whole := r.client.Get(r.Context(), key).Val()
			r.now = r.now.Add(25 * time.Hour)
			r.client.Set(r.Context(), key, "\x93\x01", 0)
			return func() { r.client.Set(r.Context(), key, whole, 0) }
		}, topics.Commands, `{"type":"usage.track","customer_id":"acme","feature_id":"m","value":7}`},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newRig(t, text)
			r.command(`{"type":"entity.create","customer_id":"acme","entity_id":"ann","feature_id":"seats"}`)
			r.command(`{"type":"balance.grant","customer_id":"acme","feature_id":"m","amount":100,"balance_id":"g"}`)
			repair := c.harm(r)
			record := r.record(c.topic, c.body, wire.HeaderIdempotencyKey, "k")
			for range 2 {
				out := r.decide(record)
				if len(out) == 0 || !strings.Contains(string(out[0].Value), "internal_error") {
					t.Errorf("answered %s", out[0].Value)
				}
				repair()
			}
			if left := r.remaining("m"); left != "110" {
				t.Errorf("%s are left", left)
			}
		})
	}
}
