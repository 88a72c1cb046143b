package main

import (
	"encoding/json"
	"fmt"
	"slices"
	"unicode/utf8"

	"tollgate/internal/balance"
	"tollgate/internal/wire"
)

// heldText says what of a usage is held, "" if nothing is.
func heldText(held json.Number) string {
	if held == "" || held == "0" {
		return ""
	}
	return fmt.Sprintf(" (%s held)", held)
}

// lockedText says what a lock holds, or held until it was settled, and for whom.
func lockedText(lock *wire.LockRecord) string {
	text := string(lock.Value) + " " + lock.FeatureID
	if lock.EntityID != nil {
		text += " for " + *lock.EntityID
	}
	return text
}

// lock shows the lock that a command was about.
func (p page) lock(result *commandResult) {
	lock := result.Lock
	id, locked := p.paint.Strong(lock.LockID), lockedText(lock)
	switch {
	case lock.State == balance.LockHeld:
		p.line("  lock %s holds %s, expires %s", id, locked, p.when(lock.ExpiresAt))
	case lock.State == balance.LockHasExpired:
		p.line("  lock %s expired %s, it held %s", id, p.when(lock.ExpiresAt), locked)
	case lock.State == balance.LockConfirmed && result.Value != "":
		p.line("  lock %s confirmed, %s spent, it held %s", id, result.Value, locked)
		p.line("  took %s", drawsText(result.Draws))
	default:
		p.line("  lock %s %s, it held %s", id, lock.State, locked)
	}
	for _, forfeit := range result.Forfeited {
		p.line("  %s %s did not come back: what they were taken from has been reset since, or is gone", forfeit.Value, forfeit.FeatureID)
	}
}

// mostLocks is how many locks of a customer are shown.
const mostLocks = 20

// locks shows what a customer holds.
func (p page) locks(locks []wire.LockRecord) {
	if len(locks) == 0 {
		return
	}
	p.line("\n  %s", p.paint.Strong("locks"))
	shown := locks[:min(len(locks), mostLocks)]
	width := utf8.RuneCountInString(slices.MaxFunc(shown, func(a, b wire.LockRecord) int {
		return utf8.RuneCountInString(a.LockID) - utf8.RuneCountInString(b.LockID)
	}).LockID)
	for i := range shown {
		p.line("    %-*s  %s, expires %s", width, shown[i].LockID, lockedText(&shown[i]), p.when(shown[i].ExpiresAt))
	}
	if more := len(locks) - len(shown); more > 0 {
		p.line("    … and %d more (-o json shows all)", more)
	}
}
