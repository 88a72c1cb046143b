-- uses: layout msgpack call pool deduct
-- Which pool (semantics), and how an outcome shows it. Candidates are pairs in a list, from a place to
-- another: a feature and the need in its units, the feature's own pool first, then the credit systems
-- that cover it in the catalogue's order. A need of false does not fit: such a pool allows nothing.

local function is_empty(view)
  local empty = true
  each_balance(view, function() empty = false end)
  return empty
end

-- Returns the view that is used, or reported where none allows it, with its need, code and allowed.
local function choose(c, entity, candidates, from, to)
  local reported, reports_credits
  for i = from, to, 2 do
    local view = view_of(c, candidates[i], entity)
    decide(view, candidates[i + 1])
    if view.allowed then return view end
    -- For the denial: the first credit system that the customer has, else the own pool.
    if i == from or (not reports_credits and not is_empty(view)) then
      reported, reports_credits = view, i > from
    end
  end
  return reported
end

-- A sum that a double may not count exactly, as two that it does: millions, and the rest.
local function new_sum() return { 0, 0 } end
local function add(sum, n)
  local rest = n % 1000000
  sum[1], sum[2] = sum[1] + (n - rest) / 1000000, sum[2] + rest
end

-- A snapshot of more balances than are shown: the first of them, then those with the rollovers that expire
-- soonest and those that the lines name, and what all of them add up to.
local function snapshot_of_many(view, lines)
  local shown, granted, remaining, usage, open = 0, new_sum(), new_sum(), new_sum(), new_sum()
  local unlimited, overage, bounded, next_reset = 0, 0, 1, 0
  local parts, of_part = {}, {} -- what is shown of each part: the part of the snapshot, and the places of balances in it
  local rolling = {}            -- balances with rollovers: {when the soonest expires, place among all, s, i, part}
  each_balance(view, function(s, i, n)
    if is_unlimited(s, i) then unlimited = 1 end
    add(granted, s[i + B.included] + s[i + B.prepaid])
    add(remaining, remaining_of(s, i))
    add(usage, usage_of(s, i))
    if allows_overage(s, i) then
      overage = 1
      if s[i + B.max] < 0 then bounded = 0 else add(open, s[i + B.max]) end
    end
    local resets = s[i + B.resets]
    if resets > 0 and (next_reset == 0 or resets < next_reset) then next_reset = resets end
    local is_shown = shown < LIMIT.shown
    if is_shown then
      shown = shown + 1
      local mine = of_part[n] or { place = #parts + 1, s = { 0 }, index = {} }
      of_part[n], parts[mine.place] = mine, { view.parts[n].owner.entity, mine.s }
      mine.index[i] = (#mine.s - 1) / B.size
      for j = 1, B.size do mine.s[#mine.s + 1] = s[i + j] end
    end
    local soonest = s[i + B.rollovers] ~= '' and soonest_left(s[i + B.rollovers])
    if soonest then rolling[#rolling + 1] = { soonest, #rolling, s, i, n, is_shown } end
  end)
  local function add_alone(s, i, n)
    parts[#parts + 1] = { view.parts[n].owner.entity, { 0, unpack(s, i + 1, i + B.size) } }
    return #parts - 1
  end
  local shown_parts = #parts
  table.sort(rolling, function(x, y)
    if x[1] ~= y[1] then return x[1] < y[1] end
    return x[2] < y[2]
  end)
  for k = #rolling, LIMIT.shown + 2, -1 do rolling[k] = nil end -- one more says that there are more
  table.sort(rolling, function(x, y) return x[2] < y[2] end)
  for _, one in ipairs(rolling) do
    if not one[6] then add_alone(one[3], one[4], one[5]) end
  end
  local rollover_parts = #parts - shown_parts
  for l = 1, #lines, 4 do
    local n, i = lines[l] + 1, lines[l + 1] * B.size + POOL.base
    local mine = of_part[n]
    if mine and mine.index[i] then
      lines[l], lines[l + 1] = mine.place - 1, mine.index[i]
    else
      lines[l], lines[l + 1] = add_alone(view.parts[n].s, i, n), 0
    end
  end
  local totals = {
    shown_parts, rollover_parts, granted[1], granted[2], remaining[1], remaining[2], usage[1], usage[2],
    unlimited, overage, bounded, open[1], open[2], next_reset,
  }
  local snapshot = { view.feature, 0, totals }
  for _, part in ipairs(parts) do snapshot[#snapshot + 1], snapshot[#snapshot + 2] = part[1], text_of_pool(part[2]) end
  return snapshot
end

-- A view as an outcome has it: {feature, how many parts count as a whole (0: all), totals ({}: there
-- are no more than are shown), and of each part the entity and its balances}. Lines refer to the
-- snapshot's parts and are changed where these are not the view's.
local NO_TOTALS = {}
local function snapshot_of(view, lines)
  local parts, balances = view.parts, 0
  for n = 1, #parts do balances = balances + (#parts[n].s - 1) / B.size end
  if balances > LIMIT.shown then return snapshot_of_many(view, lines or {}) end
  local snapshot = { view.feature, (view.shared_from or 1) - 1, NO_TOTALS }
  if view.shared_from == 1 then snapshot[2] = -1 end
  for n = 1, #parts do snapshot[2 * n + 2], snapshot[2 * n + 3] = parts[n].owner.entity, parts[n].text end
  return snapshot
end
