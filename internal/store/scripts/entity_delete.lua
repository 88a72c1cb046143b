-- entity_delete: takes an entity away, with its balances and plans, and gives its seat back.
-- uses: fields msgpack ledger calendar pool deduct outcome choose command plans
--
-- KEYS, ARGV 1..10, returns: see lib/outcome.lua.
-- ARGV[11] the entity
-- ARGV[12] the seat-like feature that the caller believes it to have, '' where it did not say
-- ARGV[13] packed map as a list of pairs: each seat-like feature and its candidates for minus one seat
--
-- Outcome: see lib/command.lua; one event, the seat.
-- Invariant: nothing of a deleted entity is left in the customer's hash.
local entity, expected = ARGV[11], ARGV[12]

local seen = begin()
if seen then return seen end

if not read_customer() then return finish(command_failure('customer_not_found'), false) end
local packed = redis.call('HGET', KEYS[1], 'e' .. entity)
if not packed then return finish(command_failure('entity_not_found'), false) end
local feature = cmsgpack.unpack(packed)[E.feature]
if expected ~= '' and expected ~= feature then return finish(command_failure('conflict'), false) end

for _, field in ipairs(redis.call('HKEYS', KEYS[1])) do
  local kind = string.sub(field, 1, 1)
  if kind == 'B' or kind == 'F' then
    local length, start = string.match(field, '^%a(%d+):()')
    if string.sub(field, start + length) == entity then
      if kind == 'B' and holds_shared(unpacked(field)) then
        redis.call('HINCRBY', KEYS[1], 'n' .. string.sub(field, start, start + length - 1), -1)
      end
      redis.call('HDEL', KEYS[1], field)
    end
  end
end
redis.call('HDEL', KEYS[1], 'e' .. entity, 'P' .. entity)
redis.call('ZREM', KEYS[2], entity)

local seats = cmsgpack.unpack(ARGV[13])
for i = 1, #seats, 2 do
  if seats[i] == feature then
    local pool = choose('', seats[i + 1], 1)
    if pool and pool.allowed then
      local lines, amount = apply(pool, pool.need)
      local event = { feature, seats[i + 1][2], '', amount, pool_snapshot(pool), lines }
      return finish(command_outcome({ pool }, { event }, {}), true)
    end
  end
end
return finish(command_outcome({}, {}, {}), true)
