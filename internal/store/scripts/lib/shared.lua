-- uses: layout msgpack struct call rollovers sums
-- lazy: entities
-- What entities hold that the customer shares: balances of per-entity items. The customer's value has what
-- all of them add up to (SHARED), so that a check of the customer need not read every entity, and queues of those
-- that have something of a kind (QUEUE), so that it need not look for them; both are kept up whenever a
-- pool of an entity changes.

-- Sums of lists are pairs of numbers (add_exactly).
local function add_to(list, place, n) list[place], list[place + 1] = add_exactly(list[place], list[place + 1], n) end
local function sum_at(list, place) return list[place] * 1000000 + list[place + 1] end

-- The values of SHARED of a feature, nil if a customer's entities share nothing of it. Changes of them are kept.
local function shared_of(c, feature)
  c.sums = c.sums or {}
  local shared = c.sums[feature]
  if not shared then
    local place = place_of_sums(c, feature)
    if not place then return nil end
    local text = c.v[C.shared][place + 1]
    shared = values_of(string.sub(text, formats.sums_size + 1))
    shared[SHARED.remaining], shared[SHARED.remaining + 1], shared[SHARED.usage], shared[SHARED.usage + 1] = struct_unpack(formats.sums, text)
    c.sums[feature] = shared
  end
  return shared
end

-- Packs the sums that were unpacked.
local function pack_sums(c)
  local all = c.v[C.shared]
  for n = 1, all == '' and 0 or #all, 2 do
    local shared = c.sums[all[n]]
    if shared then
      local queued = 0
      for _, q in ipairs(shared[SHARED.queues]) do
        if q[QUEUE.kind] == WANTED.used then queued = 1 end
      end
      local r, u = SHARED.remaining, SHARED.usage
      local remaining_millions, remaining, usage_millions, usage = shared[r], shared[r + 1], shared[u], shared[u + 1]
      shared[r], shared[r + 1], shared[u], shared[u + 1] = 0, 0, 0, 0
      all[n + 1] = struct_pack(formats.sums, remaining_millions, remaining, usage_millions, usage, queued) .. text_of(shared)
      shared[r], shared[r + 1], shared[u], shared[u + 1] = remaining_millions, remaining, usage_millions, usage
    end
  end
end

-- A way back to the sums as they are.
local function checkpoint_of_sums(c)
  if c.sums then pack_sums(c) end
  local all = c.v and copy_of(c.v[C.shared])
  return function()
    c.sums = nil
    if all then c.v[C.shared] = all end
  end
end

-- The features that a customer's entities share something of.
local function features_shared(c)
  local features, all = {}, c.v[C.shared]
  for n = 1, all == '' and 0 or #all, 2 do features[#features + 1] = all[n] end
  return features
end

local function has_shared(s)
  for i = POOL.base, #s - 1, B.size do
    if is_shared(s, i) then return true end
  end
  return false
end

-- What a pool of an entity adds: what SHARED.balances to SHARED.rolling are the sums of, in their order; and when
-- its shared balances reset.
local function contribution_of(s)
  local out = { 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, resets = {}, expiries = {} }
  local resets, expiries = out.resets, out.expiries
  for i = POOL.base, #s - 1, B.size do
    local flags = s[i + B.flags]
    if flags % FLAG.overage >= FLAG.shared then
      local granted, left, over = s[i + B.included] + s[i + B.prepaid], s[i + B.included_left] + s[i + B.prepaid_left], s[i + B.over]
      out[ADDS.balances] = out[ADDS.balances] + 1
      add_to(out, ADDS.granted, granted)
      add_to(out, ADDS.remaining, left)
      add_to(out, ADDS.usage, granted - left + over + s[i + B.from_rollovers])
      add_to(out, ADDS.held, s[i + B.held])
      if s[i + B.rollovers] ~= '' then
        out[ADDS.rolling] = out[ADDS.rolling] + 1
        add_to(out, ADDS.remaining, rollovers_left(s[i + B.rollovers]))
        expiries[#expiries + 1] = soonest_left(s[i + B.rollovers])
        expiries[#expiries + 1] = latest_taken(s[i + B.rollovers])
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

-- Counts times: those of one list come, those of another go.
local function count_times(times, gone, come)
  local function count(time, by)
    if time == 0 then return end
    for n = 1, #times, 2 do
      if times[n] == time then
        times[n + 1] = times[n + 1] + by
        if times[n + 1] == 0 then
          table.remove(times, n)
          table.remove(times, n)
        end
        return
      end
    end
    times[#times + 1], times[#times + 2] = time, by
  end
  for n = 1, max(#gone, #come) do
    if gone[n] ~= come[n] then
      if come[n] then count(come[n], 1) end
      if gone[n] then count(gone[n], -1) end
    end
  end
end

-- The times of such a list above zero, or (sign -1) below, the least first.
local function soonest_first(times, sign)
  local list = {}
  for n = 1, #times, 2 do
    if sign * times[n] > 0 then list[#list + 1] = times[n] end
  end
  table.sort(list)
  return list
end

-- How much of a kind an entity's pool has; math.huge where it has no end.
local function amount_in(s, kind)
  local amount = 0
  for i = POOL.base, #s - 1, B.size do
    local flags = s[i + B.flags]
    if flags % FLAG.overage >= FLAG.shared then
      local unlimited, left = flags % 2 == FLAG.unlimited, s[i + B.included_left] + s[i + B.prepaid_left]
      if kind == WANTED.left then
        amount = amount + (unlimited and math.huge or left)
      elseif kind == WANTED.open then
        if flags >= FLAG.overage then amount = amount + (s[i + B.max] < 0 and math.huge or max(0, s[i + B.max] - s[i + B.over])) end
      elseif kind == WANTED.holder then
        amount = amount + 1
      elseif kind == WANTED.over then
        amount = amount + returnable_over(s, i)
      elseif kind == WANTED.cut then
        amount = amount + s[i + B.included_left]
      elseif kind == WANTED.used then
        amount = amount + returnable_used(s, i)
      elseif s[i + B.rollovers] ~= '' then
        local next_key = kind > 0 and soonest_left or latest_taken
        if next_key(s[i + B.rollovers]) == kind then
          local movable_now = movable_until(s[i + B.rollovers], kind > 0 and 1 or -1, kind)
          if kind < 0 then movable_now = min(movable_now, returnable(s, i) - returnable_over(s, i) - returnable_used(s, i)) end
          amount = amount + movable_now
        end
      end
    end
  end
  return amount
end

-- The factor between an entity's number and its place in a queue.
local function direction(kind) return (kind < 0 or (kind >= WANTED.over and kind <= WANTED.last)) and -1 or 1 end

-- Puts a place into a queue, in front of its cursor.
local function enqueue(q, place)
  local places = q[QUEUE.places]
  local n = #places + 1
  while n > 1 and places[n - 1] > place do n = n - 1 end
  if places[n - 1] == place then return end
  if #places < LIMIT.places then
    table.insert(places, n, place)
  else
    -- They are looked for again from here on.
    q[QUEUE.cursor] = place
    for k = #places, 1, -1 do
      if places[k] >= q[QUEUE.cursor] then places[k] = nil end
    end
  end
end

-- Keeps the queues up: an entity's pool may have more of a kind than it had.
local function note_in_queues(shared, number, s)
  for _, q in ipairs(shared[SHARED.queues]) do
    local kind = q[QUEUE.kind]
    local place = direction(kind) * number
    if place < q[QUEUE.cursor] and amount_in(s, kind) > 0 then enqueue(q, place) end
  end
end

-- The queue of a kind. A new one has looked at nobody yet.
local function queue_of(c, shared, kind)
  local queues = shared[SHARED.queues]
  for _, q in ipairs(queues) do
    if q[QUEUE.kind] == kind then return q end
  end
  local next_number, _, first = unpack(c.v[C.entities])
  local q = { kind, direction(kind) > 0 and first or 1 - next_number, {} }
  queues[#queues + 1] = q
  return q
end

-- Drops the queues of times that are no expiries any more.
local function drop_queues(shared)
  local queues, expiries = shared[SHARED.queues], shared[SHARED.expiries]
  for n = #queues, 1, -1 do
    local kind, found = queues[n][QUEUE.kind], false
    for k = 1, #expiries, 2 do found = found or expiries[k] == kind end
    if (kind < 0 or kind > WANTED.last) and not found then table.remove(queues, n) end
  end
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
      add_to(shared, SHARED.held, s[i + B.held] - before[i + B.held])
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
    shared = { feature, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, -1, 0, {}, {}, {} }
    local all = c.v[C.shared] ~= '' and c.v[C.shared] or {}
    all[#all + 1] = feature
    all[#all + 1] = ''
    c.v[C.shared], c.sums[feature] = all, shared
  end
  if before[ADDS.balances] == 0 then shared[SHARED.holders] = shared[SHARED.holders] + 1 end
  if after[ADDS.balances] == 0 then shared[SHARED.holders] = shared[SHARED.holders] - 1 end
  shared[SHARED.balances] = shared[SHARED.balances] + after[ADDS.balances] - before[ADDS.balances]
  for place = ADDS.granted, ADDS.held, 2 do
    local sum = SHARED.balances - 1 + place
    shared[sum] = shared[sum] + after[place] - before[place]
    add_to(shared, sum, after[place + 1] - before[place + 1])
  end
  for place = ADDS.overage, ADDS.rolling do
    local n = SHARED.balances - 1 + place
    shared[n] = shared[n] + after[place] - before[place]
  end
  count_times(shared[SHARED.resets], before.resets, after.resets)
  count_times(shared[SHARED.expiries], before.expiries, after.expiries)
  drop_queues(shared)
  return shared
end

-- Drops the sums of a feature that no entity shares any more.
local function drop_shared(c, feature)
  local all, place = c.v[C.shared], place_of_sums(c, feature)
  table.remove(all, place)
  table.remove(all, place)
  c.sums[feature] = nil
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
    if shared[SHARED.holders] == 0 then return drop_shared(c, feature) end
    local due = s[POOL.due]
    if due > 0 and (shared[SHARED.due] == 0 or due < shared[SHARED.due]) then shared[SHARED.due] = due end
    if due > 0 and shared[SHARED.walk] >= 0 and (shared[SHARED.walk_due] == 0 or due < shared[SHARED.walk_due]) then
      shared[SHARED.walk_due] = due
    end
  end
  note_in_queues(shared, entity.v[E.number], s)
end
