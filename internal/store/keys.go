package store

import "strings"

// Keys of a customer share one hash tag, so that Redis Cluster keeps them in one slot. The layout is
// described in scripts/lib/layout.lua; the scripts make the other keys from the customer's.

// tagEscaper keeps ids from closing the hash tag early or forging another's.
var tagEscaper = strings.NewReplacer("%", "%25", "{", "%7B", "}", "%7D")

func (s *Store) customerKey(customerID string) string {
	return s.prefix + "{" + tagEscaper.Replace(customerID) + "}"
}

func entityKey(customerKey, entity string) string { return customerKey + ":e:" + entity }

func idempotencyKey(customerKey, key string) string { return customerKey + ":i:" + key }

// logKey is that of a source's log; "" in a Cluster, where it would not lie with the customers.
func (s *Store) logKey(source string) string {
	if s.cluster {
		return ""
	}
	return s.prefix + "log:" + source
}
