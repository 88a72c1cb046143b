-- entity_create: an entity of a customer, and the seat that it takes.
-- uses: fields msgpack ledger calendar pool deduct outcome choose command plans
--
-- KEYS, ARGV 1..10, returns: see lib/outcome.lua.
-- ARGV[11] the entity
-- ARGV[12] the seat-like feature
-- ARGV[13] its name, '' where it has none
-- ARGV[14] packed list of {plan id, rank, I}: the catalogue's per-entity items of that feature
-- ARGV[15..] candidates for one seat, see lib/choose.lua
--
-- Outcome: see lib/command.lua; one event, the seat.
-- Invariant: an entity exists only with its seat counted.
local entity, feature, name = ARGV[11], ARGV[12], ARGV[13]

local seen = begin()
if seen then return seen end

local record = read_customer()
if not record then return finish(command_failure('customer_not_found'), false) end
if entity_exists(entity) then return finish(command_failure('conflict'), false) end
local pool, code = choose('', ARGV, 15)
if not pool then return finish(command_failure(code), false) end
if not pool.allowed then return finish(command_failure(pool.code, { pool }), false) end
local lines, amount = apply(pool, pool.need)
if not lines then return finish(command_failure('amount_out_of_range'), false) end
local event = { feature, tonumber(ARGV[16]), '', amount, pool_snapshot(pool), lines }

redis.call('ZADD', KEYS[2], next_seq(record), entity)
redis.call('HSET', KEYS[1], 'e' .. entity, cmsgpack.pack({ now, feature, name }))
local per_entity = cmsgpack.unpack(ARGV[14])
for _, attached in ipairs(unpacked('p')) do
  for _, row in ipairs(per_entity) do
    local item = row[3]
    if row[1] == attached[P.id] then
      local b = new_balance(record, row[1], row[2], item, 1, attached[P.started], now, bought_of(attached, item), attached[P.times])
      add_balance(item[I.feature], read_owner_now(item[I.feature], entity), b)
    end
  end
end
write_customer(record)
return finish(command_outcome({ current_pool(pool.feature, '') }, { event }, {}), true)
