-- entity_create: an entity of a customer, and the seat that it takes.
-- uses: fields msgpack step ledger outcome run calendar pool deduct choose command plans
--
-- KEYS, ARGV, returns: see lib/step.lua.
-- args[1] the entity
-- args[2] the seat-like feature
-- args[3] its name, '' where it has none
-- args[4] packed list of {plan id, rank, I}: the catalogue's per-entity items of that feature
-- args[5..] candidates for one seat, see lib/choose.lua
--
-- Outcome: see lib/command.lua; one event, the seat.
-- Invariant: an entity exists only with its seat counted.
local function decide()
  local entity, feature, name = args[1], args[2], args[3]

  local record = read_customer()
  if not record then return finish(command_failure(no_customer()), false) end
  if entity_exists(entity) then return finish(command_failure('conflict'), false) end
  local pool, code = choose('', args, 5)
  if not pool then return finish(command_failure(code), false) end
  if not pool[POOL.allowed] then return finish(command_failure(pool[POOL.code], { pool }), false) end
  local lines, amount = apply(pool, pool[POOL.need])
  if not lines then return finish(command_failure('amount_out_of_range'), false) end
  local event = { feature, tonumber(args[6]), '', amount, pool_snapshot(pool), lines }

  call('ZADD', entities, next_seq(record), entity)
  call('HSET', customer, 'e' .. entity, pack({ now, feature, name }))
  local per_entity = unpacked(args[4])
  for _, attached in ipairs(read_list('p')) do
    for _, row in ipairs(per_entity) do
      local item = row[3]
      if row[1] == attached[P.id] then
        local b = new_balance(record, row[1], row[2], item, 1, attached[P.started], now, bought_of(attached, item), attached[P.times])
        add_balance(item[I.feature], read_owner_now(item[I.feature], entity), b)
      end
    end
  end
  write_customer(record)
  return finish(command_outcome({ current_pool(pool[POOL.feature], '') }, { event }, {}), true)
end

return run(decide)
