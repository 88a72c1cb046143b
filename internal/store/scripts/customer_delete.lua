-- customer_delete: removes a customer and all of its state.
-- uses: fields msgpack ledger calendar pool deduct outcome choose command
--
-- KEYS, ARGV 1..10, returns: see lib/outcome.lua.
--
-- Outcome: see lib/command.lua.
-- Invariant: only the ledger outlives the customer, so that its own redelivery is
-- recognised; idempotency keys of this life mean nothing to the next (epoch_of), but for
-- its own: sending it again must not delete the next.
local seen = begin()
if seen then return seen end

if not read_customer() then return finish(command_failure('customer_not_found'), false) end
redis.call('UNLINK', KEYS[1], KEYS[2])
return finish(command_outcome({}, {}, {}), true, ANY_EPOCH)
