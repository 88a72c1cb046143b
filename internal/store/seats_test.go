package store

import (
	"fmt"
	"testing"

	"tollgate/internal/balance"
)

// seatPlan is a plan that gives seats, beside other plans.
func seatPlan(id string, seats int64) balance.Plan {
	return balance.Plan{ID: id, Group: id, Items: []balance.Item{{FeatureID: "seats", Number: 1, Included: seats}}}
}

// seatsOf are the seats that a customer has, in use and granted.
func (f *fixture) seatsOf(customer string) string {
	f.Helper()
	for _, pool := range f.profileOf(customer).Pools {
		if sum := pool.Sum(); pool.FeatureID == "seats" {
			return fmt.Sprintf("%d of %d", sum.Usage, sum.Granted)
		}
	}
	return "none"
}

// TestSeatsThatEntitiesHoldStayUsedWhenAPlanGoes is fault 11: detaching one of two plans set their usage to
// 0, and 8 entities were on 5 seats.
func TestSeatsThatEntitiesHoldStayUsedWhenAPlanGoes(t *testing.T) {
	const id, entities = "acme", 8
	onBothLedgers(t, func(t *testing.T, f *fixture) {
		f.items = NewItems(balance.NewCatalog("v", []balance.Feature{metered, ofSeats}, []balance.Plan{seatPlan("a", 5), seatPlan("b", 5), seatPlan("c", 20)}))
		detach := func(plan string) { f.command(f.store.PlanDetach(f.stepOf(id), f.items, plan)) }
		free := func(entity string) {
			step := f.stepOf(id)
			step.Entity = entity
			f.command(f.store.EntityDelete(step, f.items, "", []SeatNeeds{{"seats", []Need{{FeatureID: "seats", Units: -1}}}}))
		}
		takes := func(entity string) bool {
			call := f.newEntity(id, entity)
			return f.codeOf(&call, f.deliver(call)[0]) == ""
		}
		f.command(f.store.CustomerPut(f.stepOf(id), f.items, "", "", ""))
		f.command(f.attach(id, "a"))
		f.command(f.attach(id, "b"))
		for n := range entities {
			if !takes(fmt.Sprint("e", n)) {
				t.Fatalf("no seat for entity %d", n)
			}
		}
		for _, step := range []struct {
			what string
			do   func()
			want string
		}{
			{"with two plans", func() {}, "8 of 10"},
			{"the first is detached", func() { detach("a") }, "8 of 5"},
			{"a third is attached", func() { f.command(f.attach(id, "c")) }, "8 of 25"},
			{"the second is detached", func() { detach("b") }, "8 of 20"},
			{"the first is back", func() { f.command(f.attach(id, "a")) }, "8 of 25"},
			{"the third is detached", func() { detach("c") }, "8 of 5"},
		} {
			step.do()
			if got := f.seatsOf(id); got != step.want {
				t.Errorf("%s: %s, want %s", step.what, got, step.want)
			}
		}
		if takes("one more") {
			t.Error("a ninth entity on 5 seats")
		}
		for n := range entities {
			if takes("one more") != (n > entities-5) {
				t.Errorf("with %d entities: a seat for one more: %t", entities-n, n <= entities-5)
			}
			if n > entities-5 {
				free("one more")
			}
			free(fmt.Sprint("e", n))
		}
		if got := f.seatsOf(id); got != "0 of 5" {
			t.Errorf("without entities: %s", got)
		}
	})
}
