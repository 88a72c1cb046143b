package engine

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"

	"tollgate/internal/balance"
	"tollgate/internal/store"
	"tollgate/internal/wire"
)

// readHeaders reads a request's headers and settles where its result goes: to the default topic if the
// reply topic is not allowed.
func (e *Engine) readHeaders(r *request, defaultTopic string) (err *balance.Error) {
	r.headers, err = wire.DecodeHeaders(r.record)
	r.replyTopic = defaultTopic
	switch {
	case r.headers.ReplyTopic == "" || r.headers.ReplyTopic == defaultTopic:
		return err
	case e.replyTopics[r.headers.ReplyTopic] != nil:
		r.replyTopic = r.headers.ReplyTopic
		return err
	}
	r.headers.ReplyPartition = wire.AnyPartition
	return &balance.Error{Code: balance.ReplyTopicNotAllowed,
		Message: "the reply topic is not on the worker's allow-list (--reply-topics)"}
}

// asError is the refusal in an error, nil if it is another error or none.
func asError(err error) *balance.Error {
	if err == nil { // nearly always: what follows allocates
		return nil
	}
	var refusal *balance.Error
	if errors.As(err, &refusal) {
		return refusal
	}
	return nil
}

// unreadable is why a record cannot be answered to a customer, "" if it can.
func unreadable(err error) string {
	if err == nil {
		return ""
	}
	var reason *wire.Unreadable
	if errors.As(err, &reason) {
		return reason.Reason
	}
	return ""
}

// step is what the call of a request has in common with others. identity are the fields that tell its
// question from others with the same idempotency key.
func (e *Engine) step(r *request, customerID, entityID string, remember bool, refusal *balance.Error, identity ...string) store.Step {
	step := store.Step{
		Customer: customerID, Entity: entityID, Origin: r.origin, Remember: remember, Refusal: refusal,
		IdempotencyKey: r.headers.IdempotencyKey, IdempotencyWindow: e.options.IdempotencyWindow,
	}
	if step.IdempotencyKey != "" {
		step.Question, step.Memo = digest(append(identity, entityID)), []byte(wire.EventID(r.record, 0))
	}
	return step
}

// digest is short for a list of texts.
func digest(texts []string) []byte {
	hash := sha256.New()
	for _, text := range texts {
		_ = binary.Write(hash, binary.BigEndian, uint64(len(text))) // so that no two lists are the same bytes
		hash.Write([]byte(text))
	}
	return hash.Sum(nil)[:8]
}
