-- plan_attach: attaches a plan to a customer or an entity.
-- uses: fields msgpack ledger calendar pool deduct outcome choose command plans
--
-- KEYS, ARGV 1..10, returns: see lib/outcome.lua.
-- ARGV[11] the entity, '' for the customer
-- ARGV[12] the packed plan (lib/plans.lua)
-- ARGV[13] when it starts: the anchor of its periods
--
-- Outcome: see lib/command.lua; the snapshots are all pools as the customer or entity sees them.
-- Invariant: at most one main plan of a group per owner.
local entity, plan = ARGV[11], cmsgpack.unpack(ARGV[12])

local seen = begin()
if seen then return seen end

local record = read_customer()
if not record then return finish(command_failure('customer_not_found'), false) end
if entity ~= '' and not entity_exists(entity) then return finish(command_failure('entity_not_found'), false) end
local code = attach(record, plan, entity, tonumber(ARGV[13]))
if code then return finish(command_failure(code), false) end
write_customer(record)
return finish(command_outcome(current_pools(entity), {}, {}), true)
