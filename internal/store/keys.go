package store

import "strings"

// Keys of a customer share one hash tag, so that Redis Cluster keeps them in one
// slot. The layout is described in scripts/lib/fields.lua.

// tagEscaper keeps ids from closing the hash tag early or forging another's.
var tagEscaper = strings.NewReplacer("%", "%25", "{", "%7B", "}", "%7D")

func (s *Store) customerKey(customerID string) string {
	return s.prefix + "{" + tagEscaper.Replace(customerID) + "}"
}

func entitiesKey(customerKey string) string { return customerKey + ":e" }

func ledgerKey(customerKey, source string) string { return customerKey + ":l:" + source }

func idempotencyKey(customerKey string, kind Kind, key string) string {
	return customerKey + ":i:" + string(kind) + ":" + key
}
