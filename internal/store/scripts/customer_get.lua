-- customer_get: everything that is known of a customer.
-- uses: fields msgpack step ledger outcome run calendar pool deduct choose command
--
-- KEYS, ARGV, returns: see lib/step.lua (nothing is remembered).
--
-- Outcome: see lib/command.lua; extra: {created, name, email, metadata, plans, flags, entities}:
-- plans a list of {entity, P}, flags of {feature, entity, F}, entities of {id, E, snapshots of
-- the balances that it holds itself}.
-- Invariant: changes nothing but resets and expiries that are due.
local function decide()
  local record = read_customer()
  if not record then return finish(command_failure('customer_not_found'), false) end

  -- The pools of what each entity holds itself, by entity.
  local function pools_of_entities()
    local held = {}
    for _, field in ipairs(call('HKEYS', customer)) do
      local length, start = match(field, '^B(%d+):()')
      if length then
        local feature, entity = string.sub(field, start, start + length - 1), string.sub(field, start + length)
        local owner = read_owner_now(feature, entity)
        write_owner(feature, owner)
        held[entity] = held[entity] or {}
        if #owner[OWNER.balances] > 0 then table.insert(held[entity], { feature, { owner } }) end
      end
    end
    return held
  end

  local plans, flags, entities, ids = {}, {}, {}, call('ZRANGE', entities, 0, -1)
  local held = pools_of_entities()
  for _, plan in ipairs(read_list('p')) do plans[#plans + 1] = { '', plan } end
  for i, id in ipairs(ids) do
    for _, plan in ipairs(read_list('P' .. id)) do plans[#plans + 1] = { id, plan } end
    entities[i] = { id, unpacked(call('HGET', customer, 'e' .. id)), snapshots_of(held[id] or {}) }
  end
  for _, field in ipairs(call('HKEYS', customer)) do
    local kind = string.sub(field, 1, 1)
    local feature, entity = string.sub(field, 2), ''
    if kind == 'F' then
      local length, start = match(field, '^F(%d+):()')
      feature, entity = string.sub(field, start, start + length - 1), string.sub(field, start + length)
    end
    if kind == 'f' or kind == 'F' then
      for _, flag in ipairs(read_list(field)) do flags[#flags + 1] = { feature, entity, flag } end
    end
  end
  local extra = { record[C.created], record[C.name], record[C.email], record[C.metadata], plans, flags, entities }
  return finish(command_outcome(current_pools(''), {}, extra), false)
end

return run(decide)
