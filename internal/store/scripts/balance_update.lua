-- balance_update: corrects a balance, or a pool as a whole.
-- uses: fields msgpack step ledger outcome run calendar pool deduct choose command plans
--
-- KEYS, ARGV, returns: see lib/step.lua.
-- args[1] the entity, '' for the customer
-- args[2] the feature
-- args[3] the balance's id, '' for the pool as a whole
-- args[4] remaining, usage or add
-- args[5] the amount
--
-- remaining, usage: sets it, the usage following the remaining and the other way round; what
-- the grant does not reach is granted, too (remaining), or goes into overage (usage). add: grants so
-- much more, or takes so much of what is left away. What is granted or taken away lasts until
-- the balance's next reset.
--
-- Outcome: see lib/command.lua.
-- Invariant: that of a balance (lib/fields.lua).
local function decide()
  local entity, feature, id, what, amount = args[1], args[2], args[3], args[4], tonumber(args[5])

  if not read_customer() then return finish(command_failure(no_customer()), false) end
  if entity ~= '' and not entity_exists(entity) then return finish(command_failure('entity_not_found'), false) end

  local whole = current_pool(feature, entity)
  local pool = new_pool(feature)
  pool[POOL.owners] = whole[POOL.owners]
  for i, b in ipairs(whole[POOL.list]) do
    local holder = whole[POOL.owners][whole[POOL.owner_of][i]][OWNER.entity]
    -- An entity's balance may bear the id of a customer's; the first is meant.
    if id == '' or (#pool[POOL.list] == 0 and balance_id(b, feature, holder) == id) then
      local n = #pool[POOL.list] + 1
      pool[POOL.list][n], pool[POOL.owner_of][n], pool[POOL.place_of][n] = b, whole[POOL.owner_of][i], whole[POOL.place_of][i]
    end
  end
  if #pool[POOL.list] == 0 then return finish(command_failure('balance_not_found', { whole }), false) end

  local remaining, usage, target = 0, 0, nil
  for _, b in ipairs(pool[POOL.list]) do
    if b[B.unlimited] == 1 and what ~= 'usage' then return finish(command_failure('invalid_request: an unlimited balance has neither remaining nor grant to change', { whole }), false) end
    target = target or (b[B.unlimited] == 0 and b)
    remaining = remaining + b[B.included_left] + b[B.prepaid_left]
    for _, r in ipairs(b[B.rollovers]) do remaining = remaining + r[R.left] end
    usage = usage + usage_of(b)
  end
  -- A sum that a double does not count exactly cannot be set to anything.
  if what ~= 'add' and (remaining > LIMIT.max or usage > LIMIT.max) then
    return finish(command_failure('amount_out_of_range', { whole }), false)
  end

  local function raise_target(by)
    raise(target, by, 0)
    target[B.added] = target[B.added] + by
    for _, owner in ipairs(pool[POOL.owners]) do
      for _, b in ipairs(owner[OWNER.balances]) do owner[OWNER.changed] = owner[OWNER.changed] or b == target end
    end
  end
  local function take_back(by) -- less is granted, of what is left
    for i = #pool[POOL.list], 1, -1 do
      local b = pool[POOL.list][i]
      local cut = min(b[B.included_left], by)
      b[B.included], b[B.included_left], b[B.added] = b[B.included] - cut, b[B.included_left] - cut, b[B.added] - cut
      by = by - cut
      pool[POOL.owners][pool[POOL.owner_of][i]][OWNER.changed] = pool[POOL.owners][pool[POOL.owner_of][i]][OWNER.changed] or cut > 0
    end
    return by
  end

  if what == 'remaining' then
    if amount < remaining then
      deduct(pool, remaining - amount, false)
    elseif amount > remaining then
      local short = amount - remaining
      -- Overage is consumption too: giving it back first leaves the remaining as it is.
      local over = 0
      for _, b in ipairs(pool[POOL.list]) do over = over + b[B.over] end
      local _, back = give_back(pool, over + short)
      if back < 0 then short = short - max(0, -back - over) end
      if short > 0 then raise_target(short) end
    end
  elseif what == 'usage' then
    if amount > usage then deduct(pool, amount - usage, true) elseif amount < usage then give_back(pool, usage - amount) end
  elseif amount >= 0 then
    raise_target(amount)
  elseif take_back(-amount) > 0 then
    return finish(command_failure('insufficient_balance', { current_pool(feature, entity) }), false)
  end
  for _, b in ipairs(pool[POOL.list]) do
    if b[B.included] + b[B.prepaid] > LIMIT.max or usage_of(b) > LIMIT.max then
      return finish(command_failure('amount_out_of_range', { current_pool(feature, entity) }), false)
    end
  end
  write_owners(pool)
  return finish(command_outcome({ current_pool(feature, entity) }, {}, {}), true)
end

return run(decide)
