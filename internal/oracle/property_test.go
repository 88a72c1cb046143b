// Package oracle says the rules of docs/semantics.md and docs/messages.md once more in
// plain Go, and its property test holds the engine, its scripts and Redis against what it
// says. The oracle is written for the reader: it walks every reset one by one, but where
// that cannot matter, and knows no Redis.
package oracle

import (
	"context"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"pgregory.net/rapid"

	"tollgate/internal/balance"
	"tollgate/internal/catalog"
	"tollgate/internal/servertest"
)

// The Lua of the embedded Redis takes some ten times as long.
var isReal = os.Getenv(servertest.EnvRedis) != ""

func TestMain(m *testing.M) {
	_ = flag.Set("rapid.steps", "50") // a reset that matters needs a longer story than the default
	if !isReal {
		_ = flag.Set("rapid.checks", "30")
	}
	os.Exit(servertest.Main(m))
}

func TestEngineAnswersAsTheOracle(t *testing.T) {
	catalogs := loadCatalogs(t, "one.yaml", "two.yaml")
	server := newServer(t)
	rapid.Check(t, func(t *rapid.T) {
		d := newDriver(t, server, catalogs)
		d.provision(t)
		t.Repeat(d.actions())
	})
}

// TestEngineAnswersAsTheOracleInCrowds has customers with more entities than one step looks at.
func TestEngineAnswersAsTheOracleInCrowds(t *testing.T) {
	// Each takes as long as five of the others.
	checks := flag.Lookup("rapid.checks").Value
	usual := checks.String()
	defer func() { _ = checks.Set(usual) }()
	n, err := strconv.Atoi(usual)
	if err != nil {
		t.Fatal(err)
	}
	n = max(1, n/5)
	if !isReal {
		n = 2
	}
	_ = checks.Set(strconv.Itoa(n))
	catalogs := loadCatalogs(t, "crowd.yaml")
	server := newServer(t)
	rapid.Check(t, func(t *rapid.T) {
		d := newDriver(t, server, catalogs)
		d.crowded = true
		for _, name := range customers {
			d.crowd(t, name, "team", "pack")
		}
		d.decide(t, topics.Commands, 0)
		t.Repeat(d.actions())
	})
}

func loadCatalogs(t *testing.T, names ...string) (catalogs []*balance.Catalog) {
	for _, name := range names {
		loaded, err := catalog.Load(filepath.Join("testdata", name))
		if err != nil {
			t.Fatal(err)
		}
		catalogs = append(catalogs, loaded)
	}
	return catalogs
}

func (d *driver) actions() map[string]func(*rapid.T) {
	return map[string]func(*rapid.T){
		"send":           d.send,
		"send more":      d.send,
		"send even more": d.send,
		"hold":           d.hold,
		"settle":         d.settle,
		"redeliver":      d.redeliver,
		"rebalance":      d.rebalance,
		"lose a reply":   d.loseReply,
		"wake a worker":  d.wakeWorker,
		"fail late":      d.failLate,
		"commit":         d.commit,
		"rest":           d.rest,
		"pass time":      d.passTime,
		"new catalogue":  d.newCatalog,
		"flush scripts":  d.flushScripts,
		"":               d.invariants,
	}
}

// provision makes most of the customers, with plans and entities, so that what
// follows finds something.
func (d *driver) provision(t *rapid.T) {
	for _, name := range customers {
		if seldom(t, "unknown", 3) {
			continue
		}
		d.add(topics.Commands, request{Type: "customer.put", Customer: name})
		for range rapid.IntRange(0, 3).Draw(t, "plans") {
			r := request{Type: "plan.attach", Customer: name}
			r.Plan = d.world.catalog.Plans[rapid.IntRange(0, len(d.world.catalog.Plans)-1).Draw(t, "plan")].ID
			drawAttachment(t, d.world.catalog, &r, d.now)
			d.add(topics.Commands, r)
		}
		for _, id := range entities {
			if rapid.Bool().Draw(t, "has entity") {
				d.add(topics.Commands, request{Type: "entity.create", Customer: name, Entity: id, Feature: "seats", Units: 1})
			}
		}
	}
	if seldom(t, "crowded", 4) && isReal {
		d.crowd(t, one(t, "crowded customer", customers...), "team", "pack")
	}
	if seldom(t, "hoarding", 6) && isReal {
		d.hoard(t)
	}
	d.decide(t, topics.Commands, 0)
	if seldom(t, "many locks", 6) && isReal {
		d.hoardLocks(t)
	}
}

// crowd gives a customer hundreds of entities, and plans with a balance for each.
func (d *driver) crowd(t *rapid.T, name string, plans ...string) {
	d.add(topics.Commands, request{Type: "customer.put", Customer: name})
	d.add(topics.Commands, request{Type: "balance.grant", Customer: name, Feature: "seats", Balance: "crowd", Unlimited: true})
	attach := func() {
		for _, plan := range plans {
			d.add(topics.Commands, request{Type: "plan.attach", Customer: name, Plan: plan})
		}
	}
	first := rapid.Bool().Draw(t, "plans first")
	if first {
		attach()
	}
	for i := range rapid.IntRange(130, 220).Draw(t, "crowd") {
		d.add(topics.Commands, request{Type: "entity.create", Customer: name, Entity: fmt.Sprintf("e%d", i), Feature: "seats", Units: 1})
	}
	if !first {
		attach()
	}
	d.entities = append(d.entities, "e0", "e7", "e99", "e129")
}

// hoard gives one customer as many balances of a feature as it may hold, and some more.
func (d *driver) hoard(t *rapid.T) {
	name := one(t, "hoarding customer", customers...)
	d.add(topics.Commands, request{Type: "customer.put", Customer: name})
	r := request{Type: "balance.grant", Customer: name, Feature: drawFeature(t, d.world.catalog, isMetered), Reset: balance.Reset{Count: 1}}
	days := rapid.IntRange(0, 30).Draw(t, "days")
	for i := range maxBalances + 1 {
		r.Balance, r.Units, r.Expires = fmt.Sprintf("h%d", i), int64(1+i%3), time.Time{}
		if i%2 == 0 && days > 0 {
			r.Expires = d.now.Add(time.Duration(1+i%days) * 24 * time.Hour)
		}
		d.add(topics.Commands, r)
	}
}

// hoardLocks gives one customer as many locks as it may hold, and one more.
func (d *driver) hoardLocks(t *rapid.T) {
	name := one(t, "locking customer", customers...)
	from := len(d.sent[topics.Commands])
	d.add(topics.Commands, request{Type: "customer.put", Customer: name})
	d.add(topics.Commands, request{Type: "balance.grant", Customer: name, Feature: "messages", Balance: "gift", Unlimited: true, Reset: balance.Reset{Count: 1}})
	d.decide(t, topics.Commands, from)
	from = len(d.sent[topics.Checks])
	apart := one(t, "apart", 0, time.Millisecond, time.Minute)
	for i := range mostLocks + 1 {
		r := request{Customer: name, Feature: "messages", Units: int64(i % 3), Lock: true}
		if apart > 0 {
			r.Expires = d.now.Add(time.Hour + time.Duration(i)*apart)
		}
		d.add(topics.Checks, r)
	}
	d.decide(t, topics.Checks, from)
}

// touchAll has everything that is due applied, so that what comes next finds the
// same on both sides: the engine applies a reset when it meets it, the oracle at once.
func (d *driver) touchAll(t *rapid.T) {
	from := len(d.sent[topics.Commands])
	for _, name := range customers {
		d.add(topics.Commands, request{Type: "customer.get", Customer: name})
		if c := d.world.customers[name]; c != nil {
			d.touchEntities(c, name)
		}
	}
	d.decide(t, topics.Commands, from)
}

// touchEntities touches what entities hold by themselves: customer.get reads only the first of them.
func (d *driver) touchEntities(c *customer, name string) {
	type pool struct{ entity, feature string }
	touched := map[pool]bool{}
	for _, g := range c.grants {
		if p := (pool{g.entity, g.feature}); g.entity != "" && !g.perEntity && !touched[p] {
			touched[p] = true
			d.add(topics.Commands, request{Type: "balance.update", Customer: name, Entity: p.entity, Feature: p.feature, Balance: g.name(), Field: "add"})
		}
	}
}

// passTime moves the clock on, mostly a little; sometimes back, as another worker's may be.
func (d *driver) passTime(t *rapid.T) {
	if seldom(t, "back", 3) {
		d.touchAll(t)
		d.turnClock(-min(drawTime(t), 2*time.Hour, d.sinceForgotten()))
		return
	}
	d.passTimeOn(t)
}

// passTimeOn moves the clock on, sometimes to when something is due.
func (d *driver) passTimeOn(t *rapid.T) {
	by := drawTime(t)
	if due := d.world.due(one(t, "customer", customers...)); len(due) > 0 && seldom(t, "until something is due", 1) {
		by = rapid.SampledFrom(due).Draw(t, "due").Sub(d.now) + time.Duration(rapid.IntRange(-1, 1).Draw(t, "ms beside"))*time.Millisecond
	}
	d.turnClock(by)
}

// sinceForgotten is how long ago a lock was forgotten last. The rules leave open whether a worker whose clock is behind
// still knows it.
func (d *driver) sinceForgotten() time.Duration {
	return d.now.Sub(d.world.forgot)
}

func (d *driver) turnClock(by time.Duration) {
	d.now = d.now.Add(by)
	d.world.now = d.now
}

func (d *driver) newCatalog(t *rapid.T) {
	d.touchAll(t)
	d.world.catalog = d.catalogs[rapid.IntRange(0, len(d.catalogs)-1).Draw(t, "catalogue")]
	// A preview shows the catalogue's plans of today, in a redelivery too.
	for topic := range d.sent {
		d.commitUpTo(topic, int64(len(d.sent[topic])))
	}
	d.frozen = nil
	d.engine.SetCatalog(d.world.catalog)
}

// flushScripts is what a restart of Redis, or an operator, may do.
func (d *driver) flushScripts(t *rapid.T) {
	if err := d.server.admin.ScriptFlush(context.Background()).Err(); err != nil {
		t.Fatal(err)
	}
}

// invariants of semantics, Deduction order, and controls, Reservations, for every balance. The answers were the
// oracle's, so what holds for the oracle holds for Redis.
func (d *driver) invariants(t *rapid.T) {
	for _, c := range d.world.customers {
		locked := c.lockedByBalance()
		for _, g := range c.grants {
			rolledIn := g.fromRollovers
			for _, r := range g.rollovers {
				rolledIn += r.left
			}
			if g.included+g.prepaid+rolledIn != g.remaining()+g.usage()-g.over {
				t.Fatalf("%s: granted %d + rolled in %d is not remaining %d + usage %d - overage %d",
					g.name(), g.included+g.prepaid, rolledIn, g.remaining(), g.usage(), g.over)
			}
			if g.held < 0 || g.held > g.usage() || g.held != locked[g] {
				t.Fatalf("%s: held %d of usage %d, by locks %d", g.name(), g.held, g.usage(), locked[g])
			}
			if g.usage() != g.told+g.held {
				t.Fatalf("%s: usage %d is not the sum of its events, %d, and what is held, %d", g.name(), g.usage(), g.told, g.held)
			}
			if g.usage() < 0 || g.left() < 0 || g.over < 0 || g.fromRollovers < 0 || g.usedIncluded < 0 || g.usedPrepaid < 0 {
				t.Fatalf("%s: an amount is negative: %+v", g.name(), g)
			}
		}
	}
}
