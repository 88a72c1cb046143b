-- entity_delete: takes an entity away, with its balances and plans, and gives its seat back.
-- uses: fields msgpack step ledger outcome run calendar pool deduct choose command plans
--
-- KEYS, ARGV, returns: see lib/step.lua.
-- args[1] the entity
-- args[2] the seat-like feature that the caller believes it to have, '' where it did not say
-- args[3] packed map as a list of pairs: each seat-like feature and its candidates for minus one seat
--
-- Outcome: see lib/command.lua; one event, the seat.
-- Invariant: nothing of a deleted entity is left in the customer's hash.
local function decide()
  local entity, expected = args[1], args[2]

  if not read_customer() then return finish(command_failure(no_customer()), false) end
  local packed = call('HGET', customer, 'e' .. entity)
  if not packed then return finish(command_failure('entity_not_found'), false) end
  local feature = unpacked(packed)[E.feature]
  if expected ~= '' and expected ~= feature then return finish(command_failure('conflict'), false) end

  for _, field in ipairs(call('HKEYS', customer)) do
    local kind = string.sub(field, 1, 1)
    if kind == 'B' or kind == 'F' then
      local length, start = match(field, '^%a(%d+):()')
      if string.sub(field, start + length) == entity then
        if kind == 'B' and holds_shared(read_list(field)) then
          call('HINCRBY', customer, 'n' .. string.sub(field, start, start + length - 1), -1)
        end
        call('HDEL', customer, field)
      end
    end
  end
  call('HDEL', customer, 'e' .. entity, 'P' .. entity)
  call('ZREM', entities, entity)

  local seats = unpacked(args[3])
  for i = 1, #seats, 2 do
    if seats[i] == feature then
      local pool = choose('', seats[i + 1], 1)
      if pool and pool[POOL.allowed] then
        local lines, amount = apply(pool, pool[POOL.need])
        local event = { feature, seats[i + 1][2], '', amount, pool_snapshot(pool), lines }
        return finish(command_outcome({ pool }, { event }, {}), true)
      end
    end
  end
  return finish(command_outcome({}, {}, {}), true)
end

return run(decide)
