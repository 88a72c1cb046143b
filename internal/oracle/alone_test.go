package oracle

import (
	"testing"
	"time"

	"pgregory.net/rapid"

	"tollgate/internal/wire"
)

// TestTheRulesKeepTheInvariants tells stories to the oracle alone. There is time for many more than with an engine, and
// what fails here is the rules' fault.
func TestTheRulesKeepTheInvariants(t *testing.T) {
	catalogs := loadCatalogs(t, "one.yaml", "two.yaml")
	rapid.Check(t, func(t *rapid.T) {
		d := &driver{catalogs: catalogs, entities: entities, sent: map[string][]sent{}}
		d.now = time.UnixMilli(rapid.Int64Range(1735689600_000, 1767225599_999).Draw(t, "begin")).UTC()
		d.world = &world{catalog: catalogs[0], now: d.now, customers: map[string]*customer{}}
		tell := func(topic string, r request) {
			d.add(topic, r)
			s := &d.sent[topic][len(d.sent[topic])-1]
			_ = d.world.answerTo(&s.request, wire.EventID(&s.record, 0))
		}
		for _, name := range customers {
			tell(topics.Commands, request{Type: "customer.put", Customer: name})
			for range 3 {
				tell(topics.Commands, request{Type: "plan.attach", Customer: name, Plan: d.world.catalog.Plans[rapid.IntRange(0, len(d.world.catalog.Plans)-1).Draw(t, "plan")].ID})
			}
			tell(topics.Commands, request{Type: "entity.create", Customer: name, Entity: entities[0], Feature: "seats", Units: 1})
		}
		t.Repeat(map[string]func(*rapid.T){
			"check":      func(t *rapid.T) { tell(topics.Checks, d.drawRequest(t, topics.Checks)) },
			"check more": func(t *rapid.T) { tell(topics.Checks, d.drawRequest(t, topics.Checks)) },
			"command":    func(t *rapid.T) { tell(topics.Commands, d.drawRequest(t, topics.Commands)) },
			"command more": func(t *rapid.T) {
				tell(topics.Commands, d.drawRequest(t, topics.Commands))
			},
			"hold":      func(t *rapid.T) { tell(topics.Checks, d.drawHold(t)) },
			"hold more": func(t *rapid.T) { tell(topics.Checks, d.drawHold(t)) },
			"settle":    func(t *rapid.T) { tell(topics.Commands, d.drawSettlement(t)) },
			"pass time": d.passTimeOn,
			"":          d.invariants,
		})
	})
}
