-- uses: layout msgpack call command plans
-- balance.update: corrects a balance, or a pool as a whole.
-- args: the feature; the balance's id, '' for the pool as a whole; remaining, usage or add; the amount
--
-- remaining, usage: sets it, the usage following the remaining and the other way round; what the grant
-- does not reach is granted, too (remaining), or goes into overage (usage). add: grants so much more, or
-- takes so much of what is left away. What is granted or taken away lasts until the balance's next reset.
--
-- Invariant: that of a balance (lib/layout.lua).

-- The id that a user knows a balance by.
local function balance_id(b, feature, entity)
  local d = b.details
  if d[D.plan] == '' then return d[D.id] end
  return d[D.plan] .. '/' .. feature .. (d[D.id] > 1 and '#' .. d[D.id] or '') .. (entity ~= '' and '@' .. entity or '')
end

-- The balances of a view that are meant, each with the part it is of: all, or the one with an id.
local function balances_meant(view, id)
  local meant = {}
  each_balance(view, function(s, i, n)
    local entity = view.parts[n].owner.entity
    if id == '' or (#meant == 0 and balance_id({ details = values_of(s[i + B.details]) }, view.feature, entity) == id) then
      meant[#meant + 1] = { s, i, n }
    end
  end)
  return meant
end

-- A view of balances that are meant, and what puts them back.
local function view_of_meant(view, meant)
  local parts = {}
  for k, one in ipairs(meant) do
    parts[k] = { s = { 0, unpack(one[1], one[2] + 1, one[2] + B.size) }, owner = view.parts[one[3]].owner }
  end
  return { feature = view.feature, parts = parts, rollovers = true }, function()
    for k, one in ipairs(meant) do
      for j = 1, B.size do one[1][one[2] + j] = parts[k].s[POOL.base + j] end
    end
  end
end

commands['balance.update'] = function(c, feature, id, what, amount)
  local owner = owner_asked(c)
  if not owner then return nil, 'entity_not_found' end
  local view = view_of(c, feature, owner ~= c and owner or nil)
  load_all(view)
  local meant = balances_meant(view, id)
  if #meant == 0 then return nil, 'balance_not_found', { snapshot_of(view) } end

  local remaining, usage, over, target = 0, 0, 0, nil
  for _, one in ipairs(meant) do
    local s, i = one[1], one[2]
    if is_unlimited(s, i) and what ~= 'usage' then
      return nil, 'invalid_request: an unlimited balance has neither remaining nor grant to change', { snapshot_of(view) }
    end
    if not target and not is_unlimited(s, i) then target = one end
    remaining, usage, over = remaining + remaining_of(s, i), usage + usage_of(s, i), over + s[i + B.over]
  end
  -- A sum that a double does not count exactly cannot be set to anything.
  if what ~= 'add' and (remaining > LIMIT.max or usage > LIMIT.max) then
    return nil, 'amount_out_of_range', { snapshot_of(view) }
  end

  local part, put = view_of_meant(view, meant)
  local function raise_target(by)
    put()
    local s, i = target[1], target[2]
    local b = { unpack(s, i + 1, i + B.size) }
    raise(b, by, 0)
    local details = values_of(b[B.details])
    details[D.added] = details[D.added] + by
    b[B.details] = text_of(details)
    for j = 1, B.size do s[i + j] = b[j] end
  end
  local function take_back(by) -- less is granted, of what is left
    for k = #meant, 1, -1 do
      local s, i = meant[k][1], meant[k][2]
      local cut = min(s[i + B.included_left], by)
      if cut > 0 then
        local details = values_of(s[i + B.details])
        details[D.added] = details[D.added] - cut
        s[i + B.included], s[i + B.included_left] = s[i + B.included] - cut, s[i + B.included_left] - cut
        s[i + B.details] = text_of(details)
        by = by - cut
      end
    end
    return by
  end

  if what == 'remaining' then
    if amount < remaining then
      deduct(part, remaining - amount, false)
      put()
    elseif amount > remaining then
      local short = amount - remaining
      -- Overage is consumption too: giving it back first leaves the remaining as it is.
      local _, back = give_back(part, over + short)
      put()
      if back < 0 then short = short - max(0, -back - over) end
      if short > 0 then raise_target(short) end
    end
  elseif what == 'usage' then
    if amount > usage then deduct(part, amount - usage, true) elseif amount < usage then give_back(part, usage - amount) end
    put()
  elseif amount >= 0 then
    raise_target(amount)
  elseif take_back(-amount) > 0 then
    return nil, 'insufficient_balance'
  end
  local changed = {}
  for _, one in ipairs(meant) do
    local s, i = one[1], one[2]
    changed[one[3]] = true
    if s[i + B.included] + s[i + B.prepaid] > LIMIT.max or usage_of(s, i) > LIMIT.max then return nil, 'amount_out_of_range' end
  end
  for n in pairs(changed) do
    local p = view.parts[n]
    if text_of_pool(p.s) ~= p.text then pool_changed(p) end
  end
  return { snapshot_of(view) }, NOTHING, NOTHING, true
end
