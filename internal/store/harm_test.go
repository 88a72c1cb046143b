package store

import (
	"context"
	"errors"
	"maps"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/tinylib/msgp/msgp"

	"tollgate/internal/balance"
	"tollgate/internal/servertest"
)

// What tests need to harm a Redis, and to look at what it holds.

// onBothLedgers runs a test with outcomes in a log, and with outcomes in the customers' keys, as in a
// Cluster.
func onBothLedgers(t *testing.T, test func(t *testing.T, f *fixture)) {
	for name, inCluster := range map[string]bool{"with a log": false, "as in a Cluster": true} {
		t.Run(name, func(t *testing.T) { test(t, newFixtureOn(t, servertest.Redis(t), inCluster)) })
	}
}

// lacks says that a server does not know a command: the embedded Redis of the tests has neither users nor
// settings. Any other error fails the test.
func lacks(t testing.TB, err error) bool {
	t.Helper()
	if redis.HasErrorPrefix(err, "unknown command") {
		return true
	}
	if err != nil {
		t.Fatal(err)
	}
	return false
}

// user is a user of Redis whose rights can be taken away, and the store on its connection.
type user struct {
	f     *fixture
	name  string
	store *Store
}

// newUser makes a user with all rights, nil where the server knows no users.
func (f *fixture) newUser() *user {
	f.Helper()
	u := &user{f: f, name: servertest.Unique("user")}
	if lacks(f, f.client.Do(f.Context(), "ACL", "SETUSER", u.name, "on", "nopass", "~*", "&*", "+@all").Err()) {
		return nil
	}
	client := redis.NewClient(&redis.Options{Addr: f.client.Options().Addr, Username: u.name, Password: "any", MaxRetries: -1})
	f.Cleanup(func() {
		_ = client.Close()
		if err := f.client.Do(context.Background(), "ACL", "DELUSER", u.name).Err(); err != nil {
			f.Error(err)
		}
	})
	u.store = f.storeOn(client, f.store.prefix, f.store.cluster)
	return u
}

// allow changes the user's rights, by a rule of an ACL.
func (u *user) allow(rule string) {
	u.f.Helper()
	if err := u.f.client.Do(u.f.Context(), "ACL", "SETUSER", u.name, rule).Err(); err != nil {
		u.f.Fatal(err)
	}
}

// triesOfAWorker is how often tests send a call to a Redis that does not take it.
const triesOfAWorker = 10

// tries sends calls again and again, as a worker does whom Redis refuses, and returns the last error.
func (f *fixture) tries(s *Store, calls ...Call) (err error) {
	f.Helper()
	for range triesOfAWorker {
		_, err = s.Run(f.Context(), f.now, asSent(calls))
	}
	return err
}

// asSent are calls as they were before they were sent.
func asSent(calls []Call) []Call {
	all := make([]Call, len(calls))
	for i, call := range calls {
		all[i] = again(call)
	}
	return all
}

// deliver runs calls as they were before they were sent.
func (f *fixture) deliver(calls ...Call) []Reply {
	f.Helper()
	return f.run(asSent(calls)...)
}

// failed says whether a step failed, and whether that is kept or not.
func (f *fixture) failed(call *Call, reply Reply) bool {
	f.Helper()
	if reply.Stale {
		f.Fatal("stale")
	}
	if reply.Err != nil {
		return true
	}
	failure := f.errorOf(call, reply)
	return failure != nil && failure.Code == balance.InternalError
}

// errorOf is the error that a reply answers with.
func (f *fixture) errorOf(call *Call, reply Reply) *balance.Error {
	f.Helper()
	if reply.Err != nil {
		f.Fatal(reply.Err)
	}
	if call.script == checkScript {
		return f.outcome(reply).Error
	}
	outcome, err := ReadCommandOutcome(reply)
	if err != nil {
		f.Fatal(err)
	}
	return outcome.Error
}

// command is the outcome of a command that is to be carried out.
func (f *fixture) command(call Call) *CommandOutcome {
	f.Helper()
	outcome, err := ReadCommandOutcome(f.run(call)[0])
	if err != nil {
		f.Fatal(err)
	}
	if outcome.Error != nil {
		f.Fatalf("%s: %v", call.kind, outcome.Error)
	}
	return outcome
}

// stepOf is the next record's, of a customer.
func (f *fixture) stepOf(customer string) Step {
	step := f.step()
	step.Customer = customer
	return step
}

// deduct is a check that takes units of a feature.
func (f *fixture) deduct(step Step, feature string, units int64) Call {
	return f.store.Check(&Check{Step: step, FeatureID: feature, Needs: []Need{{FeatureID: feature, Units: units}}, Deduct: true}, f.items)
}

// keys are those of a customer.
func (f *fixture) keys(customer string) []string {
	f.Helper()
	keys, err := f.client.Keys(f.Context(), f.store.customerKey(customer)+"*").Result()
	if err != nil {
		f.Fatal(err)
	}
	slices.Sort(keys)
	return keys
}

// values are those of a packed list that a key holds.
func (f *fixture) values(key string) []any {
	f.Helper()
	text, err := f.client.Get(f.Context(), key).Bytes()
	if err != nil {
		f.Fatal(key, err)
	}
	v, _, err := msgp.ReadIntfBytes(text)
	if err != nil {
		f.Fatal(key, err)
	}
	return v.([]any)
}

func (f *fixture) set(key string, value any) {
	f.Helper()
	if list, isList := value.([]any); isList {
		packed, err := msgp.AppendIntf(nil, list)
		if err != nil {
			f.Fatal(err)
		}
		value = packed
	}
	if err := f.client.Set(f.Context(), key, value, 0).Err(); err != nil {
		f.Fatal(err)
	}
}

// state is what the keys of a customer hold, without its ledgers; keys of another type as "".
func (f *fixture) state(customer string) map[string]any {
	f.Helper()
	state := map[string]any{}
	for _, key := range f.keys(customer) {
		text, err := f.client.Get(f.Context(), key).Result()
		if err != nil && !redis.HasErrorPrefix(err, "WRONGTYPE") {
			f.Fatal(err)
		}
		state[key] = text
		v, rest, err := msgp.ReadIntfBytes([]byte(text))
		if list, isList := v.([]any); err == nil && isList && len(rest) == 0 {
			if key == f.store.customerKey(customer) {
				list = withoutLedgers(list)
			}
			state[key] = list
		}
	}
	return state
}

// withoutLedgers are the values of a customer but for its ledgers.
func withoutLedgers(v []any) []any {
	pools := int(number("C", "pools") - 1)
	rest := slices.Clone(v[:pools])
	for i := pools; i+1 < len(v); i += 2 {
		if !strings.HasPrefix(v[i].(string), "\x00") {
			rest = append(rest, v[i], v[i+1])
		}
	}
	return rest
}

// dump is what the keys of a customer hold, to be restored.
func (f *fixture) dump(customer string) map[string]string {
	f.Helper()
	dump := map[string]string{}
	for _, key := range f.keys(customer) {
		text, err := f.client.Get(f.Context(), key).Result()
		if err != nil {
			f.Fatal(err)
		}
		dump[key] = text
	}
	return dump
}

// restore gives a customer what dump returned, and nothing else.
func (f *fixture) restore(customer string, dump map[string]string) {
	f.Helper()
	if keys := f.keys(customer); len(keys) > 0 {
		if err := f.client.Del(f.Context(), keys...).Err(); err != nil {
			f.Fatal(err)
		}
	}
	for key, text := range dump {
		f.set(key, text)
	}
}

// sameState fails the test if a customer's state is not what it was.
func (f *fixture) sameState(what, customer string, before map[string]any) {
	f.Helper()
	after := f.state(customer)
	for _, key := range slices.Sorted(maps.Keys(before)) {
		if !reflect.DeepEqual(before[key], after[key]) {
			f.Errorf("%s: %s held %q, now %q", what, key, before[key], after[key])
		}
		delete(after, key)
	}
	if len(after) > 0 {
		f.Errorf("%s: there are further keys now: %v", what, slices.Collect(maps.Keys(after)))
	}
}

// multiply makes n balances of the one that an owner holds of a feature.
func (f *fixture) multiply(key, feature string, n int) {
	f.Helper()
	v := f.values(key)
	for i := int(number("C", "pools")) - 1; i < len(v); i += 2 {
		if v[i] != feature {
			continue
		}
		pool := v[i+1].(string)
		due := 1 + 6 // the mark, and what is due
		if pool[0] != 0 {
			due++
		}
		head := due + poolStart
		all := []byte(pool[:head])
		if n > int(number("LIMIT", "quick")) {
			clear(all[due:])
		}
		for range n {
			all = append(all, pool[head:]...)
		}
		v[i+1] = string(all)
		f.set(key, v)
		return
	}
	f.Fatalf("%s holds no %s", key, feature)
}

// harm is something done to a key, and what undoes it.
type harm struct {
	name string
	do   func(f *fixture, key string)
}

var (
	otherType = harm{"of another type", func(f *fixture, key string) {
		if err := f.client.Del(f.Context(), key).Err(); err != nil {
			f.Fatal(err)
		}
		if err := f.client.RPush(f.Context(), key, "x").Err(); err != nil {
			f.Fatal(err)
		}
	}}
	unreadable = harm{"unreadable", func(f *fixture, key string) { f.set(key, "\xc1 this is no MessagePack") }}
	truncated  = harm{"truncated", func(f *fixture, key string) {
		text := f.client.Get(f.Context(), key).Val()
		const kept = 12 // within the first values
		f.set(key, text[:kept])
	}}
	otherFormat = harm{"of another version", func(f *fixture, key string) {
		v := f.values(key)
		v[number("C", "format")-1] = int64(99)
		f.set(key, v)
	}}
	spoiledPools = harm{"with pools that cannot be read", func(f *fixture, key string) {
		v := f.values(key)
		for i := int(number("C", "pools")); i < len(v); i += 2 {
			v[i] = "\x00spoiled"
		}
		f.set(key, v)
	}}
)

// to does the harm to a key, and returns what undoes it. A ledger that was written meanwhile stays.
func (h harm) to(f *fixture, key string) (undo func()) {
	f.Helper()
	before, err := f.client.Get(f.Context(), key).Result()
	if err != nil && !redis.HasErrorPrefix(err, "WRONGTYPE") && !errors.Is(err, redis.Nil) {
		f.Fatal(err)
	}
	var aside string
	if err != nil && !errors.Is(err, redis.Nil) {
		aside = "aside:" + key
		if err := f.client.Rename(f.Context(), key, aside).Err(); err != nil {
			f.Fatal(err)
		}
	}
	h.do(f, key)
	return func() {
		f.Helper()
		switch {
		case aside != "":
			if err := f.client.Rename(f.Context(), aside, key).Err(); err != nil {
				f.Fatal(err)
			}
		case before == "":
			if err := f.client.Del(f.Context(), key).Err(); err != nil {
				f.Fatal(err)
			}
		case h.name == spoiledPools.name:
			was, _, err := msgp.ReadIntfBytes([]byte(before))
			if err != nil {
				f.Fatal(err)
			}
			now, pools := f.values(key), int(number("C", "pools"))-1
			f.set(key, slices.Concat(now[:pools], was.([]any)[pools:]))
		default:
			f.set(key, before)
		}
	}
}

// hook stands between a store and its Redis, and may change what is answered.
type hook struct {
	redis.Hook
	pipeline func(commands []redis.Cmder, send func() error) error
}

func (h *hook) DialHook(next redis.DialHook) redis.DialHook          { return next }
func (h *hook) ProcessHook(next redis.ProcessHook) redis.ProcessHook { return next }
func (h *hook) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, commands []redis.Cmder) error {
		return h.pipeline(commands, func() error { return next(ctx, commands) })
	}
}

// answerWith has every script answered with an error instead, behind having run.
func answerWith(err error) *hook {
	return &hook{pipeline: func(commands []redis.Cmder, send func() error) error {
		_ = send()
		for _, command := range commands {
			if strings.EqualFold(command.Name(), "evalsha") {
				command.SetErr(err)
			}
		}
		return err
	}}
}

// redisError is an error as Redis answers it.
type redisError string

func (e redisError) Error() string { return string(e) }
func (redisError) RedisError()     {}

// A catalogue with something of everything.
var (
	ofX       = balance.Feature{ID: "x", Type: balance.Metered, Consumable: true}
	ofSeats   = balance.Feature{ID: "seats", Type: balance.Metered}
	ofFlag    = balance.Feature{ID: "flag", Type: balance.Boolean}
	ofCredits = balance.Feature{ID: "credits", Type: balance.CreditSystem, Consumable: true, Precision: 2, CreditSchema: []balance.CreditCost{{FeatureID: "x", Cost: balance.Decimal{Digits: "2"}}}}
)

func monthly(feature string, units int64) balance.Item {
	return balance.Item{FeatureID: feature, Number: 1, Included: units, Reset: balance.Reset{Interval: balance.Month, Count: 1}}
}

// team is a plan with seats, and balances of m for each entity.
func team(id string, units int64) balance.Plan {
	perEntity := monthly("m", units)
	perEntity.PerEntity = "seats"
	rolling := monthly("credits", 100*units)
	rolling.Rollover = &balance.Rollover{Max: balance.Unbounded, ExpiryMonths: 3}
	return balance.Plan{ID: id, Group: "base", Items: []balance.Item{
		perEntity, monthly("x", units), rolling, {FeatureID: "seats", Number: 1, Included: 10}, {FeatureID: "flag", Number: 1},
	}}
}

var teams = balance.NewCatalog("v", []balance.Feature{metered, ofX, ofSeats, ofFlag, ofCredits}, []balance.Plan{team("team", 30), team("team2", 40)})

// newTeam gives a customer the plan team, three entities e0 to e2, a grant of x and a profile.
func (f *fixture) newTeam(customer string) {
	f.Helper()
	f.items = NewItems(teams)
	f.command(f.store.CustomerPut(f.stepOf(customer), f.items, "name", "a@example.com", `{"a":1}`))
	f.command(f.attach(customer, "team"))
	for _, id := range []string{"e0", "e1", "e2"} {
		f.command(f.newEntity(customer, id))
	}
	f.command(f.store.BalanceGrant(f.stepOf(customer), f.items, Grant{FeatureID: "x", BalanceID: "gift", Units: 7}))
}

func (f *fixture) attach(customer, plan string) Call {
	return f.store.PlanAttach(f.stepOf(customer), f.items, f.items.catalog.Plan(plan), nil, time.Time{}, 0)
}

func (f *fixture) newEntity(customer, id string) Call {
	step := f.stepOf(customer)
	step.Entity = id
	return f.store.EntityCreate(step, f.items, "seats", "", []Need{{FeatureID: "seats", Units: 1}})
}

// commandsOf is a command of every kind for a customer that newTeam made, by kind.
func (f *fixture) commandsOf(customer string) map[string]Call {
	ofEntity := func(id string) Step {
		step := f.stepOf(customer)
		step.Entity = id
		return step
	}
	return map[string]Call{
		"customer.put":                    f.store.CustomerPut(f.stepOf(customer), f.items, "", "b@example.com", ""),
		"plan.attach":                     f.attach(customer, "team2"),
		"plan.detach":                     f.store.PlanDetach(f.stepOf(customer), f.items, "team"),
		"entity.create":                   f.newEntity(customer, "e3"),
		"entity.delete":                   f.store.EntityDelete(ofEntity("e2"), f.items, "", []SeatNeeds{{"seats", []Need{{FeatureID: "seats", Units: -1}}}}),
		"balance.grant":                   f.store.BalanceGrant(f.stepOf(customer), f.items, Grant{FeatureID: "x", Units: 5}),
		"balance.grant to an entity":      f.store.BalanceGrant(ofEntity("e1"), f.items, Grant{FeatureID: "x", Units: 5}),
		"balance.update":                  f.store.BalanceUpdate(f.stepOf(customer), f.items, "x", "gift", FieldAdd, 3),
		"balance.update of all":           f.store.BalanceUpdate(f.stepOf(customer), f.items, "m", "", FieldUsage, 35),
		"usage.track":                     f.store.Track(f.stepOf(customer), f.items, "cap", [][]Need{{{FeatureID: "x", Units: 2}}, {{FeatureID: "m", Units: 33}}}),
		"customer.get with what is due":   f.store.CustomerGet(f.stepOf(customer), f.items),
		"customer.delete":                 f.store.CustomerDelete(f.stepOf(customer), f.items),
		"a check of an entity":            f.deduct(ofEntity("e1"), "m", 2),
		"a check of all":                  f.deduct(f.stepOf(customer), "m", 33),
		"a check with an idempotency key": f.deduct(withKey(f.stepOf(customer), "k"), "x", 2),
	}
}

// withKey is a step with an idempotency key.
func withKey(step Step, key string) Step {
	step.IdempotencyKey, step.IdempotencyWindow, step.Question, step.Memo = key, time.Hour, []byte("question"), []byte("memo")
	return step
}
