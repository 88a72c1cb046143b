package balance

import "strings"

// Code is the outcome of a check or the error of a command, as records bear it.
type Code string

// The codes of a decision (messages: check result).
const (
	Included           Code = "included"
	Overage            Code = "overage"
	Unlimited          Code = "unlimited"
	Flagged            Code = "flag"
	NotEntitled        Code = "not_entitled"
	InsufficientFunds  Code = "insufficient_balance"
	MaxPurchaseReached Code = "max_purchase_reached"
)

// The codes of an error.
const (
	InvalidRequest       Code = "invalid_request"
	CustomerNotFound     Code = "customer_not_found"
	FeatureNotFound      Code = "feature_not_found"
	EntityNotFound       Code = "entity_not_found"
	FlagNotConsumable    Code = "flag_not_consumable"
	AmountOutOfRange     Code = "amount_out_of_range"
	ReplyTopicNotAllowed Code = "reply_topic_not_allowed"
	DeadlineExceeded     Code = "deadline_exceeded"
	IdempotencyConflict  Code = "idempotency_conflict"
	TooManyBalances      Code = "too_many_balances"
	PlanNotFound         Code = "plan_not_found"
	BalanceNotFound      Code = "balance_not_found"
	Conflict             Code = "conflict"
	NotConsumable        Code = "not_consumable"
	TooManyLocks         Code = "too_many_locks"
	LockNotFound         Code = "lock_not_found"
	LockSettled          Code = "lock_settled"
	LockExpired          Code = "lock_expired"
	// InternalError is for what should not happen: a script that failed, a result
	// that no broker takes.
	InternalError Code = "internal_error"
)

// Codes lists all codes.
var Codes = []Code{
	Included, Overage, Unlimited, Flagged, NotEntitled, InsufficientFunds, MaxPurchaseReached,
	InvalidRequest, CustomerNotFound, FeatureNotFound, EntityNotFound, FlagNotConsumable, AmountOutOfRange, ReplyTopicNotAllowed,
	DeadlineExceeded, IdempotencyConflict, TooManyBalances, PlanNotFound, BalanceNotFound, Conflict,
	NotConsumable, TooManyLocks, LockNotFound, LockSettled, LockExpired, InternalError,
}

// Allowed says whether the code of a decision lets the customer pass.
func (c Code) Allowed() bool {
	switch c {
	case Included, Overage, Unlimited, Flagged:
		return true
	}
	return false
}

// IsError says whether the code is an error rather than a decision.
func (c Code) IsError() bool {
	switch c {
	case Included, Overage, Unlimited, Flagged, NotEntitled, InsufficientFunds, MaxPurchaseReached:
		return false
	}
	return true
}

// Error is a refusal with a message for the person who sent the request.
type Error struct {
	Code    Code
	Message string
}

func (e *Error) Error() string { return string(e.Code) + ": " + e.Message }

// ParseError reads an error as Error writes it; a code alone explains itself.
func ParseError(text string) *Error {
	code, message, explained := strings.Cut(text, ": ")
	if !explained {
		return NewError(Code(code))
	}
	return &Error{Code(code), message}
}

var explanations = map[Code]string{
	NotEntitled:         "the customer has no balance of this feature; attach a plan that includes it or grant a balance",
	InsufficientFunds:   "not enough is left",
	MaxPurchaseReached:  "the overage would pass its max_purchase",
	CustomerNotFound:    "no such customer; create it with customer.put",
	FeatureNotFound:     "the catalogue has no such feature",
	EntityNotFound:      "the customer has no such entity; create it with entity.create",
	FlagNotConsumable:   "a boolean feature cannot be consumed; leave send_event and lock out",
	AmountOutOfRange:    "the amount, or the balance it would make, does not fit",
	DeadlineExceeded:    "its expires-at had passed when it was decided",
	IdempotencyConflict: "the idempotency key belongs to another question of this customer; use a new key",
	TooManyBalances:     "there are 1,000 balances of this feature already; let some expire, or raise one with balance.update",
	PlanNotFound:        "no such plan, or it is not attached",
	BalanceNotFound:     "no such balance",
	NotConsumable:       "only what is consumed can be held; a feature with consumable: false is occupied with entity.create or usage.track",
	TooManyLocks:        "the customer holds 1,000 locks; finalize some",
	LockNotFound:        "the customer has no such lock, or it was settled more than 24 hours ago",
	LockSettled:         "the lock was settled another way before",
	LockExpired:         "the lock has released itself; it was not finalized before expires_at",
	InternalError:       "it could not be decided; the record is in the dead-letter topic",
	Conflict:            "it exists already, or differs from what is there",
}

// NewError makes an error of a code that explains itself.
func NewError(code Code) *Error { return &Error{code, explanations[code]} }
