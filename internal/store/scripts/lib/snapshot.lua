-- uses: layout msgpack call pool entities shared rollovers
-- lazy: snapshot
-- A snapshot of more balances than are shown: the first of them, then those with the rollovers that expire
-- soonest and those that the lines name, and what all of them add up to.
local function snapshot_of_many(view, lines)
  local shared, listed = view.shared, view
  if shared then -- what the customer holds itself, and those entities that are shown
    local parts = {}
    for n = 1, (view.shared_from or #view.parts + 1) - 1 do parts[n] = view.parts[n] end
    listed = { feature = view.feature, parts = parts }
    if shared[SHARED.rolling] > 0 then find_rolling(view, LIMIT.shown + 1, view.shown) end
    add_parts(listed, view.shown)
  end
  local t = {} -- TOTALS
  for n = 1, TOTALS.next_reset do t[n] = 0 end
  t[TOTALS.bounded] = 1
  local function reset_at(time)
    if time > 0 and (t[TOTALS.next_reset] == 0 or time < t[TOTALS.next_reset]) then t[TOTALS.next_reset] = time end
  end
  if shared then
    for _, pair in ipairs({ { TOTALS.granted_millions, SHARED.granted }, { TOTALS.remaining_millions, SHARED.remaining },
      { TOTALS.usage_millions, SHARED.usage }, { TOTALS.held_millions, SHARED.held }, { TOTALS.max_millions, SHARED.max } }) do
      t[pair[1]], t[pair[1] + 1] = shared[pair[2]], shared[pair[2] + 1]
    end
    if shared[SHARED.unlimited] > 0 then t[TOTALS.unlimited] = 1 end
    if shared[SHARED.overage] > 0 then t[TOTALS.overage] = 1 end
    if shared[SHARED.unbounded] > 0 then t[TOTALS.bounded] = 0 end
    reset_at(soonest_first(shared[SHARED.resets], 1)[1] or 0)
  end
  local shown, parts, of_part = 0, {}, {} -- of_part: of each part that is shown, the part of the snapshot, and the places of balances in it
  local rolling = {}                      -- balances with rollovers: {when the soonest expires, place among all, s, i, part}
  each_balance(listed, function(s, i, n)
    if not shared or n < listed.shared_from then
      if is_unlimited(s, i) then t[TOTALS.unlimited] = 1 end
      add_to(t, TOTALS.granted_millions, s[i + B.included] + s[i + B.prepaid])
      add_to(t, TOTALS.remaining_millions, s[i + B.included_left] + s[i + B.prepaid_left])
      if s[i + B.rollovers] ~= '' then add_to(t, TOTALS.remaining_millions, rollovers_left(s[i + B.rollovers])) end
      add_to(t, TOTALS.usage_millions, usage_of(s, i))
      add_to(t, TOTALS.held_millions, s[i + B.held])
      if allows_overage(s, i) then
        t[TOTALS.overage] = 1
        if s[i + B.max] < 0 then t[TOTALS.bounded] = 0 else add_to(t, TOTALS.max_millions, s[i + B.max]) end
      end
      reset_at(s[i + B.resets])
    end
    local is_shown, p = shown < LIMIT.shown, listed.parts[n]
    if is_shown then
      shown = shown + 1
      local mine = of_part[p] or { place = #parts + 1, s = { 0 }, index = {} }
      of_part[p], parts[mine.place] = mine, { p.owner.entity, mine.s }
      mine.index[i] = (#mine.s - 1) / B.size
      for j = 1, B.size do mine.s[#mine.s + 1] = s[i + j] end
    end
    local soonest = s[i + B.rollovers] ~= '' and soonest_left(s[i + B.rollovers])
    if soonest then rolling[#rolling + 1] = { soonest, #rolling, s, i, p, is_shown } end
  end)
  local function add_alone(p, s, i)
    parts[#parts + 1] = { p.owner.entity, { 0, unpack(s, i + 1, i + B.size) } }
    return #parts - 1
  end
  t[TOTALS.shown_parts] = #parts
  table.sort(rolling, function(x, y)
    if x[1] ~= y[1] then return x[1] < y[1] end
    return x[2] < y[2]
  end)
  local soonest = {}
  for k = 1, min(#rolling, LIMIT.shown + 1) do soonest[k] = rolling[k] end -- one more says that there are more
  table.sort(soonest, function(x, y) return x[2] < y[2] end)
  for _, one in ipairs(soonest) do
    if not one[6] then add_alone(one[5], one[3], one[4]) end
  end
  t[TOTALS.rollover_parts] = #parts - t[TOTALS.shown_parts]
  for l = 1, #lines, 4 do
    local p, i = view.parts[lines[l] + 1], lines[l + 1] * B.size + POOL.base
    local mine = of_part[p]
    if mine and mine.index[i] then
      lines[l], lines[l + 1] = mine.place - 1, mine.index[i]
    else
      lines[l], lines[l + 1] = add_alone(p, p.s, i), 0
    end
  end
  local snapshot = { view.feature, 0, t }
  for _, part in ipairs(parts) do snapshot[#snapshot + 1], snapshot[#snapshot + 2] = part[1], text_of_pool(part[2]) end
  return snapshot
end
