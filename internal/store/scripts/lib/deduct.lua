-- Taking an amount off a pool, and giving it back (semantics: Deduction order).
--
-- deduct(pool, need, force): takes up to need, in place, marks the owners changed and
--   returns the lines (list of D) and what was taken. force: what finds no room goes
--   into overage on the last balance, whatever its bounds. A line's balance counts
--   within its owner, from 0; D.owner counts the pool's owners, from 0.
-- give_back(pool, amount): the way back, no further than to what was granted.
-- Invariant: remaining never grows past granted, no part of a balance turns negative,
-- and the lines add up to what was taken.
local function usage_of(b)
  return b[B.included] - b[B.included_left] + b[B.prepaid] - b[B.prepaid_left] + b[B.over] + b[B.from_rollovers]
end

-- Lines of one step, and the place of each balance within its owner.
local function new_lines(pool)
  local place = {}
  for n, owner in ipairs(pool.owners) do
    for i, b in ipairs(owner.balances) do place[b] = { n - 1, i - 1, owner } end
  end
  local lines, total = {}, 0
  local function line(b, amount, kind)
    local at = place[b]
    at[3].changed = true
    lines[#lines + 1] = { at[1], at[2], amount, kind }
    total = total + amount
  end
  return line, function() return lines, total end
end

-- The pool's rollovers, soonest expiry first, each with its balance.
local function rollovers_in_order(list)
  local all = {}
  for i, b in ipairs(list) do
    for j, r in ipairs(b[B.rollovers]) do all[#all + 1] = { r = r, b = b, i = i, j = j } end
  end
  if #all > 1 then
    table.sort(all, function(x, y)
      local x_expires, y_expires = x.r[R.expires], y.r[R.expires]
      if x_expires ~= y_expires then
        if x_expires == 0 or y_expires == 0 then return y_expires == 0 end
        return x_expires < y_expires
      end
      if x.i ~= y.i then return x.i < y.i end
      return x.j < y.j
    end)
  end
  return all
end

local function deduct(pool, need, force)
  local list, left = pool.list, need
  local line, result = new_lines(pool)
  local min = math.min
  for _, entry in ipairs(rollovers_in_order(list)) do
    local amount = min(entry.r[R.left], left)
    if amount > 0 then
      entry.r[R.left] = entry.r[R.left] - amount
      entry.b[B.from_rollovers] = entry.b[B.from_rollovers] + amount
      left = left - amount
      line(entry.b, amount, KIND.rollover)
    end
  end
  for _, b in ipairs(list) do
    if left <= 0 then break end
    if b[B.unlimited] == 1 then
      b[B.over] = b[B.over] + left
      line(b, left, KIND.unlimited)
      left = 0
    else
      local amount = min(b[B.included_left], left)
      if amount > 0 then
        b[B.included_left] = b[B.included_left] - amount
        left = left - amount
        line(b, amount, KIND.included)
      end
      amount = min(b[B.prepaid_left], left)
      if amount > 0 then
        b[B.prepaid_left] = b[B.prepaid_left] - amount
        left = left - amount
        line(b, amount, KIND.prepaid)
      end
    end
  end
  for _, b in ipairs(list) do
    if left <= 0 then break end
    if b[B.overage] == 1 then
      local amount = left
      if b[B.max] >= 0 then amount = min(left, math.max(0, b[B.max] - b[B.over])) end
      if amount > 0 then
        b[B.over] = b[B.over] + amount
        left = left - amount
        line(b, amount, KIND.overage)
      end
    end
  end
  if force and left > 0 then
    local b = list[#list]
    b[B.over] = b[B.over] + left
    line(b, left, KIND.overage)
  end
  return result()
end

local function give_back(pool, amount)
  local list, left = pool.list, amount
  local line, result = new_lines(pool)
  local min = math.min
  for i = #list, 1, -1 do
    local b = list[i]
    if b[B.unlimited] == 0 then
      local back = min(b[B.over], left)
      if back > 0 then
        b[B.over] = b[B.over] - back
        left = left - back
        line(b, -back, KIND.overage)
      end
    end
  end
  for i = #list, 1, -1 do
    local b = list[i]
    if b[B.unlimited] == 1 then
      local back = min(b[B.over], left)
      if back > 0 then
        b[B.over] = b[B.over] - back
        left = left - back
        line(b, -back, KIND.unlimited)
      end
    else
      local back = min(b[B.prepaid] - b[B.prepaid_left], left)
      if back > 0 then
        b[B.prepaid_left] = b[B.prepaid_left] + back
        left = left - back
        line(b, -back, KIND.prepaid)
      end
      back = min(b[B.included] - b[B.included_left], left)
      if back > 0 then
        b[B.included_left] = b[B.included_left] + back
        left = left - back
        line(b, -back, KIND.included)
      end
    end
  end
  local rollovers = rollovers_in_order(list)
  for i = #rollovers, 1, -1 do
    local b, r = rollovers[i].b, rollovers[i].r
    local back = min(r[R.held] - r[R.left], left)
    if back > 0 then
      r[R.left] = r[R.left] + back
      b[B.from_rollovers] = b[B.from_rollovers] - back
      left = left - back
      line(b, -back, KIND.rollover)
    end
  end
  return result()
end

-- Whether every amount of the pool still fits.
local function fits(pool)
  for _, b in ipairs(pool.list) do
    if usage_of(b) > LIMIT.max or b[B.over] > LIMIT.max then return false end
  end
  return true
end
