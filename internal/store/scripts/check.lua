-- check: may the customer use the feature now, and if so, take it off the balance.
-- uses: call outcome quick decide
--
-- KEYS, ARGV, returns: see lib/call.lua; for example
--   KEYS[1] = tollgate:{acme}          the customer
--   KEYS[2] = tollgate:{acme}:e:ann    the entity that is asked for
--   KEYS[3] = tollgate:{acme}:i:k1     the idempotency key
--   behind a STEP its candidates, STEP.needs values (lib/choose.lua)
-- Outcome: formats.quick, check, pair_head or lock_head; it is kept if the check may deduct or hold something.
-- Invariant: a denial deducts nothing, an allowed check that deducts or holds takes all of need.

return take_steps(function(c)
  if a[at + STEP.asked] >= ASKED.keep then -- else there is nothing that begin would look at
    local seen, refusal = begin(c)
    if seen then return seen end
    if refusal then return end_without_pool(c, refusal) end
  end
  return decide_quickly(c) or decide_check(c)
end)
