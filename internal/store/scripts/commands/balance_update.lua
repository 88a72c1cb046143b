-- uses: layout msgpack call command entities deduct holding
-- balance.update: corrects a balance, or a pool as a whole.
-- args: the feature; the balance's id, '' for the pool as a whole; remaining, usage or add; the amount
--
-- remaining, usage: sets it, the usage following the remaining and the other way round; what the grant
-- does not reach is granted, too (remaining), or goes into overage (usage). add: grants so much more, or
-- takes so much of what is left away. What is granted or taken away lasts until the balance's next reset.
--
-- Invariant: that of a balance (lib/layout.lua). Of many entities only those are read that it concerns.

-- The id that a user knows a balance by.
local function balance_id(b, feature, entity)
  local d = b.details
  if d[D.plan] == '' then return d[D.id] end
  return d[D.plan] .. '/' .. feature .. (d[D.id] > 1 and '#' .. d[D.id] or '') .. (entity ~= '' and '@' .. entity or '')
end

-- Who may hold a balance of a view that has an id: those whose balances are in the view, in their order, and of shared
-- ones the entity that the id ends with.
local function holders_by_id(c, owner, id)
  if owner ~= c then return { owner, c } end
  local holders, at_byte = { c }, string.find(id, '@', 1, true)
  while at_byte and at_byte < #id do
    holders[#holders + 1] = entity_of(c, string.sub(id, at_byte + 1)) or nil
    at_byte = string.find(id, '@', at_byte + 1, true)
  end
  return holders
end

-- A view of the balance that an id means, and what puts it back (view_of_some); nil if there is none.
local function view_of_one(c, owner, feature, id)
  for _, holder in ipairs(holders_by_id(c, owner, id)) do
    local only_shared = holder ~= c and holder ~= owner
    local view, put = view_of_some(c, holder, feature, function(b)
      return balance_id(b, feature, holder.entity) == id and not (only_shared and b[B.flags] % FLAG.overage < FLAG.shared)
    end)
    if #view.parts[1].s > POOL.base then return view, put end
  end
end

-- What the balances of a view add up to, those of its entities by their sums, but for what these have gone over; and
-- whether one of them is limited, or unlimited.
local function totals_of(view)
  local t = { remaining = 0, usage = 0, held = 0, over = 0, limited = false, unlimited = false }
  each_balance(view, function(s, i)
    t.remaining, t.usage, t.over = t.remaining + remaining_of(s, i), t.usage + usage_of(s, i), t.over + s[i + B.over]
    t.held = t.held + s[i + B.held]
    if is_unlimited(s, i) then t.unlimited = true else t.limited = true end
  end)
  local shared = view.shared
  if shared then
    t.remaining, t.usage = t.remaining + sum_at(shared, SHARED.remaining), t.usage + sum_at(shared, SHARED.usage)
    t.held = t.held + sum_at(shared, SHARED.held)
    t.unlimited = t.unlimited or shared[SHARED.unlimited] > 0
  end
  return t
end

-- What is to be done: taken (forced: whatever the bounds), given back, raised (at most), cut.
local function changes_for(t, what, amount)
  local change = { take = 0, forced = what == 'usage', back = 0, raise = 0, cut = 0 }
  if what == 'usage' then
    change.take, change.back = max(0, amount - t.usage), max(0, t.usage - amount)
  elseif what == 'remaining' then
    change.take = max(0, t.remaining - amount)
    change.raise = max(0, amount - t.remaining)
    -- Overage is consumption too: giving it back first leaves the remaining as it is.
    if change.raise > 0 then change.back = t.over + change.raise end
  else
    change.raise, change.cut = max(0, amount), max(0, -amount)
  end
  return change
end

-- Finds those entities that the changes concern; false if they are too many. It may have to be sent again.
local function find_for(view, change, t)
  if not view.shared then return end
  local found = {}
  if change.back > 0 and change.raise > 0 then
    if not find(view, WANTED.over, math.huge, found) then return false end
    for p in pairs(found) do change.back = change.back + amount_in(p.s, WANTED.over) end
  end
  if change.take > 0 and find_to_take(view, change.take, change.forced, found) == false then return false end
  if change.back > 0 and find_to_give_back(view, change.back, found) == false then return false end
  if change.raise > 0 and not t.limited then find(view, WANTED.holder, 1, found) end
  if change.cut > 0 and not find(view, WANTED.cut, change.cut, found) then return false end
  return add_found(view, found)
end

-- Changes what the first balance that has an end was granted, or cuts what is left of the last ones. by is taken
-- off what they got until their next reset.
local function note_added(s, i, by)
  local details = values_of(s[i + B.details])
  details[D.added] = details[D.added] + by
  s[i + B.details], s[i + B.included] = text_of(details), s[i + B.included] + by
end
local function raise_first(view, by)
  local fitting = true
  each_balance(view, function(s, i, n)
    if by > 0 and not is_unlimited(s, i) then
      local covered = min(s[i + B.over], by)
      fitting = s[i + B.included] + s[i + B.prepaid] + by <= LIMIT.max
      note_added(s, i, by)
      s[i + B.over], s[i + B.included_left] = s[i + B.over] - covered, s[i + B.included_left] + by - covered
      by, view.parts[n].touched = 0, true
    end
  end)
  return fitting
end
-- Overage that is left of the balance that is raised is held. Granting more covers it first.
local function first_overage(view)
  local over
  each_balance(view, function(s, i)
    if not over and not is_unlimited(s, i) then over = s[i + B.over] end
  end)
  return over or 0
end
local function cut_last(view, by)
  local balances = {}
  each_balance(view, function(s, i, n) balances[#balances + 1] = { s, i, n } end)
  for k = #balances, 1, -1 do
    local s, i, n = unpack(balances[k])
    local cut = min(s[i + B.included_left], by)
    if cut > 0 then
      note_added(s, i, -cut)
      s[i + B.included_left], by, view.parts[n].touched = s[i + B.included_left] - cut, by - cut, true
    end
  end
  return by == 0
end

-- Makes the changes. Returns an error code, or nil.
local function make_changes(view, change, t)
  local raise = change.raise
  if change.take > 0 then deduct(view, change.take, change.forced) end
  if change.back > 0 then
    local lines = give_back(view, change.back)
    for l = 1, raise > 0 and #lines or 0, 4 do
      if lines[l + 3] ~= KIND.overage then raise = raise + lines[l + 2] end -- which is below zero
    end
    if raise > 0 then raise = raise + first_overage(view) end
  end
  if raise > 0 and not raise_first(view, raise) then return 'amount_out_of_range' end
  if change.cut > 0 and not cut_last(view, change.cut) then return 'insufficient_balance' end
end

commands['balance.update'] = function(c, feature, id, what, amount)
  local owner = owner_asked(c)
  if not owner then return nil, 'entity_not_found' end
  resumable = true -- until all entities are found
  local whole = view_of(c, feature, owner ~= c and owner or nil)
  local view, put = whole, nil
  if id ~= '' then view, put = view_of_one(c, owner, feature, id) end
  if not view or is_empty(view) then return nil, 'balance_not_found', { snapshot_of(whole) } end
  local t = totals_of(view)
  if t.unlimited and what ~= 'usage' then
    return nil, 'invalid_request: an unlimited balance has neither remaining nor grant to change', { snapshot_of(whole) }
  end
  if what == 'usage' and amount < t.held then
    return nil, 'invalid_request: more of the usage than that is held by locks', { snapshot_of(whole) }
  end
  -- A sum that a double does not count exactly cannot be set to anything.
  local change = changes_for(t, what, amount)
  if (what ~= 'add' and (t.remaining > LIMIT.max or t.usage > LIMIT.max)) or find_for(view, change, t) == false then
    return nil, 'amount_out_of_range', { snapshot_of(whole) }
  end
  resumable = false
  local code = make_changes(view, change, t)
  if code then return nil, code end
  local fitting
  if put then fitting = put() else fitting = end_change({ view }) end
  if not fitting then return nil, 'amount_out_of_range' end
  return { snapshot_of(whole) }, NOTHING, NOTHING, true
end
