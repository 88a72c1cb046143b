-- uses: layout msgpack call rollovers
-- lazy: entities
-- What entities hold that the customer shares: balances of per-entity items. The customer's value has what
-- all of them add up to (SHARED), so that a check of the customer need not read every entity; it is
-- kept up whenever a pool of an entity changes.
--
-- Invariant: of the entities before the cursor those that have something left are in the holes. So the
-- entities to draw from next are the holes and then those from the cursor on.

-- A number that a double may not count exactly, as two that it does: millions, and the rest.
local function add_to(list, place, n)
  local rest = n % 1000000
  local millions, sum = list[place] + (n - rest) / 1000000, list[place + 1] + rest
  if sum >= 1000000 then millions, sum = millions + 1, sum - 1000000 end
  list[place], list[place + 1] = millions, sum
end
local function sum_at(list, place) return list[place] * 1000000 + list[place + 1] end

-- The sums of a customer, a list of SHARED.
local function shared_sums(c) return c.v[C.shared] ~= '' and c.v[C.shared] or NOTHING end

local function shared_of(c, feature)
  local all = shared_sums(c)
  for n = 1, #all do
    if all[n][SHARED.feature] == feature then return all[n] end
  end
end

-- Adds a difference of two sums to a sum.
local function add_difference(list, place, millions, rest)
  millions, rest = list[place] + millions, list[place + 1] + rest
  if rest >= 1000000 then millions, rest = millions + 1, rest - 1000000 elseif rest < 0 then millions, rest = millions - 1, rest + 1000000 end
  list[place], list[place + 1] = millions, rest
end

-- How many balances of a pool are shared.
local function how_many_shared(s)
  local n = 0
  for i = POOL.base, #s - 1, B.size do
    if s[i + B.flags] % FLAG.overage >= FLAG.shared then n = n + 1 end
  end
  return n
end
local function has_shared(s) return how_many_shared(s) > 0 end

-- What a pool of an entity adds: what SHARED.balances to SHARED.rolling are the sums of, in their order; and when
-- its shared balances reset.
local function contribution_of(s)
  local out = { 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, resets = {} }
  local resets = out.resets
  for i = POOL.base, #s - 1, B.size do
    local flags = s[i + B.flags]
    if flags % FLAG.overage >= FLAG.shared then
      local granted, left, over = s[i + B.included] + s[i + B.prepaid], s[i + B.included_left] + s[i + B.prepaid_left], s[i + B.over]
      out[ADDS.balances] = out[ADDS.balances] + 1
      add_to(out, ADDS.granted, granted)
      add_to(out, ADDS.remaining, left)
      add_to(out, ADDS.usage, granted - left + over + s[i + B.from_rollovers])
      if s[i + B.rollovers] ~= '' then
        out[ADDS.rolling] = out[ADDS.rolling] + 1
        add_to(out, ADDS.remaining, rollovers_left(s[i + B.rollovers]))
      end
      if flags >= FLAG.overage then
        out[ADDS.overage] = out[ADDS.overage] + 1
        if s[i + B.max] < 0 then
          out[ADDS.unbounded] = out[ADDS.unbounded] + 1
        else
          add_to(out, ADDS.open, max(0, s[i + B.max] - over))
          add_to(out, ADDS.max, s[i + B.max])
        end
      end
      out[ADDS.unlimited] = out[ADDS.unlimited] + flags % 2
      resets[#resets + 1] = s[i + B.resets]
    end
  end
  return out
end

-- Counts the balances that reset at a time.
local function count_reset(shared, time, by)
  if time == 0 then return end
  local resets = shared[SHARED.resets]
  for n = 1, #resets, 2 do
    if resets[n] == time then
      resets[n + 1] = resets[n + 1] + by
      if resets[n + 1] == 0 then
        table.remove(resets, n)
        table.remove(resets, n)
      end
      return
    end
  end
  resets[#resets + 1], resets[#resets + 2] = time, by
end

local function soonest_reset(shared)
  local soonest, resets = 0, shared[SHARED.resets]
  for n = 1, #resets, 2 do
    if soonest == 0 or resets[n] < soonest then soonest = resets[n] end
  end
  return soonest
end

-- Adds an entity to the holes, in their order.
local function add_hole(shared, number)
  local holes = shared[SHARED.holes]
  local at_place = #holes + 1
  while at_place > 1 and holes[at_place - 1] > number do at_place = at_place - 1 end
  if holes[at_place - 1] == number then return end
  if #holes < LIMIT.holes then
    table.insert(holes, at_place, number)
  else
    -- They are looked for again from here on.
    shared[SHARED.cursor] = at_place <= #holes and min(holes[at_place], number) or number
    for n = #holes, 1, -1 do
      if holes[n] >= shared[SHARED.cursor] then holes[n] = nil end
    end
  end
end

-- What is left of the shared balances of a pool.
local function shared_left(s)
  local left = 0
  for i = POOL.base, #s - 1, B.size do
    if s[i + B.flags] % FLAG.overage >= FLAG.shared then
      left = left + s[i + B.included_left] + s[i + B.prepaid_left]
      if s[i + B.rollovers] ~= '' then left = left + rollovers_left(s[i + B.rollovers]) end
    end
  end
  return left
end

-- Adds what a pool adds more, or less, than it did. False where more has changed than what was consumed.
local function add_consumption(shared, before, s)
  if #before ~= #s or before[POOL.due] ~= s[POOL.due] then return false end
  for i = POOL.base, #s - 1, B.size do
    if s[i + B.flags] ~= before[i + B.flags] or s[i + B.included] ~= before[i + B.included] or s[i + B.prepaid] ~= before[i + B.prepaid]
      or s[i + B.max] ~= before[i + B.max] or s[i + B.resets] ~= before[i + B.resets] or s[i + B.rollovers] ~= before[i + B.rollovers] then
      return false
    end
  end
  for i = POOL.base, #s - 1, B.size do
    local flags = s[i + B.flags]
    if flags % FLAG.overage >= FLAG.shared then
      local left = s[i + B.included_left] - before[i + B.included_left] + (s[i + B.prepaid_left] - before[i + B.prepaid_left])
      local over = s[i + B.over] - before[i + B.over]
      add_to(shared, SHARED.remaining, left)
      add_to(shared, SHARED.usage, over - left)
      if over ~= 0 and flags >= FLAG.overage and s[i + B.max] >= 0 then
        add_to(shared, SHARED.open, max(0, s[i + B.max] - s[i + B.over]) - max(0, s[i + B.max] - before[i + B.over]))
      end
    end
  end
  return true
end

-- Adds all that a pool adds now, in place of what it did.
local function add_contribution(c, feature, shared, before, after)
  if not shared then
    shared = { feature, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, -1, 0, 0, {}, {} }
    if c.v[C.shared] == '' then c.v[C.shared] = {} end
    c.v[C.shared][#c.v[C.shared] + 1] = shared
  end
  if before[1] == 0 then shared[SHARED.holders] = shared[SHARED.holders] + 1 end
  if after[1] == 0 then shared[SHARED.holders] = shared[SHARED.holders] - 1 end
  shared[SHARED.balances] = shared[SHARED.balances] + after[ADDS.balances] - before[ADDS.balances]
  for place = ADDS.granted, ADDS.max, 2 do
    local millions, rest = after[place] - before[place], after[place + 1] - before[place + 1]
    if millions ~= 0 or rest ~= 0 then add_difference(shared, SHARED.balances - 1 + place, millions, rest) end
  end
  for place = ADDS.overage, ADDS.rolling do
    local n = SHARED.balances - 1 + place
    shared[n] = shared[n] + after[place] - before[place]
  end
  for n = 1, max(#before.resets, #after.resets) do
    if before.resets[n] ~= after.resets[n] then
      if before.resets[n] then count_reset(shared, before.resets[n], -1) end
      if after.resets[n] then count_reset(shared, after.resets[n], 1) end
    end
  end
  return shared
end

-- Drops the sums of a feature that no entity shares any more.
local function drop_shared(c, shared)
  local all = c.v[C.shared]
  for n = #all, 1, -1 do
    if all[n] == shared then table.remove(all, n) end
  end
  if #all == 0 then c.v[C.shared] = '' end
end

-- Takes a change of an entity's pool of a feature over into the sums: the values that it had before, and s, those
-- that it has now.
local function sum_up(entity, feature, before, s)
  if not has_shared(before) and not has_shared(s) then return end
  local c = entity.customer
  local shared = shared_of(c, feature)
  c.changed = true
  if not (shared and add_consumption(shared, before, s)) then
    shared = add_contribution(c, feature, shared, contribution_of(before), contribution_of(s))
    if shared[SHARED.holders] == 0 then return drop_shared(c, shared) end
    local due = s[POOL.due]
    if due > 0 and (shared[SHARED.due] == 0 or due < shared[SHARED.due]) then shared[SHARED.due] = due end
    if due > 0 and shared[SHARED.walk] >= 0 and (shared[SHARED.walk_due] == 0 or due < shared[SHARED.walk_due]) then
      shared[SHARED.walk_due] = due
    end
  end
  local number = entity.v[E.number]
  if number < shared[SHARED.cursor] and shared_left(s) > 0 then add_hole(shared, number) end
end
