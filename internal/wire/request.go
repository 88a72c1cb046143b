// Package wire turns records into what the domain knows, and back: JSON, headers
// and CloudEvents, as docs/reference.md describes them.
package wire

import (
	"errors"
	"fmt"

	"tollgate/internal/balance"
)

const (
	maxBodyBytes       = 64 << 10
	maxPropertiesBytes = 16 << 10
)

// KeptBytes is how much of a record's value a reader must keep at least. What is longer is refused for
// its size, and may be kept as its first KeptBytes bytes only.
const KeptBytes = maxBodyBytes + 1

// Check is a check request.
type Check struct {
	CustomerID  string
	FeatureID   string
	EntityID    string // "" where none is given
	Required    string // a JSON number, as it was written; "1" where none is given
	Properties  string // a JSON object, "" where none is given
	SendEvent   bool
	WithPreview bool
	Lock        LockRequest
}

// LockRequest asks to hold what is required instead of spending it.
type LockRequest struct {
	Enabled         bool
	ID              string // "" to be given that of the usage event that the record would make
	ExpiresAtMs     int64  // 0 where it is absent
	OverageBehavior string // "" where it is absent
}

// Unreadable says why a record cannot be answered to any customer: it is no JSON
// object, or has no usable customer_id. Such a record is a dead letter.
type Unreadable struct{ Reason string }

func (u *Unreadable) Error() string { return u.Reason }

// DecodeCheck reads a check request. It fails with *Unreadable, or with a
// *balance.Error of code invalid_request; then the fields that were readable are
// set all the same. key is the record's, nil for none: it names the customer where
// the value was cut off before it does.
func DecodeCheck(value, key []byte) (Check, error) {
	check := Check{Required: "1"}
	o, err := readRequest(value, key, &check.CustomerID)
	if err != nil {
		return check, err
	}
	check.FeatureID, check.EntityID = o.requiredID("feature_id"), o.id("entity_id")
	if o.has("required_balance") {
		check.Required = o.number("required_balance")
	}
	check.Properties = o.raw("properties", maxPropertiesBytes)
	check.SendEvent, check.WithPreview = o.boolean("send_event"), o.boolean("with_preview")
	if lock := o.child("lock"); lock != nil {
		check.Lock = LockRequest{Enabled: lock.boolean("enabled"), ID: lock.id("lock_id"), OverageBehavior: lock.text("overage_behavior", MaxIDBytes)}
		check.Lock.ExpiresAtMs, _ = lock.timeMs("expires_at")
		o.adopt("lock", lock)
	}
	if o.err != nil {
		return check, o.err
	}
	return check, nil
}

// readRequest reads what checks and commands have in common.
func readRequest(value, key []byte, customerID *string) (*object, error) {
	o, ok := readObject(value)
	if !ok {
		if len(value) != KeptBytes {
			return nil, &Unreadable{"the record is no JSON object"}
		}
		if o = readHead(value, key); !o.has("customer_id") {
			return nil, &Unreadable{fmt.Sprintf("the record is larger than %d bytes", maxBodyBytes)}
		}
	}
	*customerID = o.requiredID("customer_id")
	if o.err != nil {
		return nil, &Unreadable{o.err.Message}
	}
	if len(value) > maxBodyBytes {
		o.fail("the record is larger than %d bytes", maxBodyBytes)
	}
	return o, nil
}

// AmountError explains why a number is no amount of the feature.
func AmountError(field, text string, feature *balance.Feature, err error) *balance.Error {
	const mostShown = 64
	if len(text) > mostShown {
		text = text[:mostShown] + "…"
	}
	code := balance.InvalidRequest
	switch {
	case errors.Is(err, balance.ErrOutOfRange):
		code = balance.AmountOutOfRange
	case errors.Is(err, balance.ErrTooPrecise):
		err = fmt.Errorf("it has more decimals than %s, whose precision is %d", feature.ID, feature.Precision)
	}
	return &balance.Error{Code: code, Message: fmt.Sprintf("%s %s: %v", field, text, err)}
}
