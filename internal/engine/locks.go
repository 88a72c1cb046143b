package engine

import (
	"tollgate/internal/balance"
	"tollgate/internal/store"
	"tollgate/internal/wire"
)

// lockFinalize leaves override_value a decimal: only the store knows the lock's feature, and so its units.
func (c *command) lockFinalize() (store.Call, *balance.Error) {
	finalize := store.LockFinalize{ID: c.LockID, Action: c.Action, Properties: c.Properties, EventID: wire.EventID(c.record, 0)}
	switch {
	case c.LockID == "":
		return store.Call{}, invalid("lock_id is missing")
	case c.Action != "confirm" && c.Action != "release":
		return store.Call{}, invalid("action must be confirm or release")
	case c.Action == "release" && c.OverrideValue != "":
		return store.Call{}, invalid("override_value is for confirm; a release gives everything back")
	}
	if c.OverrideValue != "" {
		value, err := balance.ParseDecimal(c.OverrideValue)
		if err != nil || value.Negative {
			return store.Call{}, invalid("override_value must be zero or more")
		}
		finalize.Override = &value
	}
	return c.engine.store.LockFinalize(c.step(true), c.rules.items, finalize), nil
}

func (c *command) lockExtend() (store.Call, *balance.Error) {
	switch {
	case c.LockID == "":
		return store.Call{}, invalid("lock_id is missing")
	case c.ExpiresAtMs == 0:
		return store.Call{}, invalid("expires_at is missing")
	}
	return c.engine.store.LockExtend(c.step(true), c.rules.items, c.LockID, c.ExpiresAtMs), nil
}

func (c *command) lockGet() (store.Call, *balance.Error) {
	if c.LockID == "" {
		return store.Call{}, invalid("lock_id is missing")
	}
	return c.engine.store.LockGet(c.step(false), c.rules.items, c.LockID), nil
}

// lockFields tell of a lock, and what was done with it.
func (c *command) lockFields(outcome *store.CommandOutcome) map[string]any {
	lock := outcome.Lock
	if lock == nil {
		return nil
	}
	fields := map[string]any{"lock": wire.NewLock(c.rules.catalog, &lock.Lock)}
	if c.Type != "lock.finalize" {
		return fields
	}
	fields["value"] = wire.Amount(lock.Confirmed, c.rules.catalog.Known(lock.FeatureID).Precision)
	fields["forfeited"] = wire.NewForfeits(c.rules.catalog, lock.Forfeited)
	var draws []balance.Draw
	for i := range outcome.Events {
		draws = append(draws, outcome.Events[i].Draws...)
	}
	fields["draws"] = wire.DrawFields(c.rules.catalog, draws)
	return fields
}

// lockExpire comes from a Sweeper. It is a record, and no work beside the stream, so that what follows from an expiry
// is told once, like what follows from any other record.
func (c *command) lockExpire() (store.Call, *balance.Error) {
	if c.LockID == "" {
		return store.Call{}, invalid("lock_id is missing")
	}
	return c.engine.store.LockExpire(c.step(true), c.rules.items, c.LockID), nil
}

// noteLock notes what became of a lock, for the index that sweepers look at.
func (c *command) noteLock(outcome *store.CommandOutcome) {
	switch {
	case outcome.Lock != nil && c.Type != "lock.get":
		c.lock = &outcome.Lock.Lock
	case outcome.Error != nil && c.Type == "lock.expire":
		c.lock = &balance.Lock{} // there is none any more
	default:
		return
	}
	c.lock.ID = c.LockID
}

// noteLock notes that a lock was made, or was not. It is in the index already (store.Run).
func (c *check) noteLock(outcome *store.CheckOutcome, id string) {
	switch {
	case !c.Lock.Enabled || outcome.Repeats:
	case outcome.LockExpiresMs > 0:
		c.madeLock = id
	case !outcome.Code.IsError() || outcome.Code == balance.TooManyLocks:
		// It was found that there is none of that id. Other errors come before that: another record's lock may be held.
		c.lock = &balance.Lock{ID: id}
	}
}
