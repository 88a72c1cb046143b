-- balance_grant: a standalone balance.
-- uses: fields msgpack ledger calendar pool deduct outcome choose command plans
--
-- KEYS, ARGV 1..10, returns: see lib/outcome.lua.
-- ARGV[11] the entity, '' for the customer
-- ARGV[12] the feature
-- ARGV[13] the balance's id, '' to have one made
-- ARGV[14] the grant as a packed plan item (I)
-- ARGV[15] when it expires, 0: never
--
-- Outcome: see lib/command.lua; extra: {the balance's id}.
-- Invariant: a balance's id is unique among the balances of its owner and feature.
local entity, feature, id, item = ARGV[11], ARGV[12], ARGV[13], cmsgpack.unpack(ARGV[14])

local seen = begin()
if seen then return seen end

local record = read_customer()
if not record then return finish(command_failure('customer_not_found'), false) end
if entity ~= '' and not entity_exists(entity) then return finish(command_failure('entity_not_found'), false) end
local owner = read_owner_now(feature, entity)
local STANDALONE = 2
local b = new_balance(record, '', STANDALONE, item, 0, now, now, 0, 1)
b[B.id] = id ~= '' and id or 'grant-' .. string.format('%.0f', b[B.seq])
b[B.expires] = tonumber(ARGV[15])
for _, other in ipairs(owner.balances) do
  if balance_id(other, feature, entity) == b[B.id] then return finish(command_failure('conflict'), false) end
end
add_balance(feature, owner, b)
write_customer(record)
return finish(command_outcome({ current_pool(feature, entity) }, {}, { b[B.id] }), true)
