-- Taking an amount off a pool, and giving it back (semantics: Deduction order).
--
-- deduct(pool, need, force): takes up to need, in place, marks the owners changed and
--   returns the lines and what was taken. force: what finds no room goes
--   into overage on the last balance, whatever its bounds. A line's balance counts
--   within its owner, from 0; D.owner counts the pool's owners, from 0.
-- give_back(pool, amount): the way back, no further than to what was granted.
-- Invariant: remaining never grows past granted, no part of a balance turns negative,
-- and the lines add up to what was taken.
local function usage_of(b)
  return b[B.included] - b[B.included_left] + b[B.prepaid] - b[B.prepaid_left] + b[B.over] + b[B.from_rollovers]
end

-- Adds the line for what was taken off the i-th balance of the pool.
local function add_line(lines, pool, i, amount, kind)
  local owner = pool[POOL.owner_of][i]
  pool[POOL.owners][owner][OWNER.changed] = true
  local n = #lines
  lines[n + 1], lines[n + 2], lines[n + 3], lines[n + 4] = owner - 1, pool[POOL.place_of][i] - 1, amount, kind
end

local function has_rollovers(list)
  for i = 1, #list do
    if #list[i][B.rollovers] > 0 then return true end
  end
  return false
end

-- The pool's rollovers, soonest expiry first, each with its balance.
local function rollovers_in_order(list)
  local all = {}
  for i = 1, #list do
    local b = list[i]
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
  local list, left = pool[POOL.list], need
  local lines = {}
  if has_rollovers(list) then
    for _, entry in ipairs(rollovers_in_order(list)) do
      local amount = min(entry.r[R.left], left)
      if amount > 0 then
        entry.r[R.left] = entry.r[R.left] - amount
        entry.b[B.from_rollovers] = entry.b[B.from_rollovers] + amount
        left = left - amount
        add_line(lines, pool, entry.i, amount, KIND.rollover)
      end
    end
  end
  for i = 1, #list do
    if left <= 0 then break end
    local b = list[i]
    if b[B.unlimited] == 1 then
      b[B.over] = b[B.over] + left
      add_line(lines, pool, i, left, KIND.unlimited)
      left = 0
    else
      local amount = min(b[B.included_left], left)
      if amount > 0 then
        b[B.included_left] = b[B.included_left] - amount
        left = left - amount
        add_line(lines, pool, i, amount, KIND.included)
      end
      amount = min(b[B.prepaid_left], left)
      if amount > 0 then
        b[B.prepaid_left] = b[B.prepaid_left] - amount
        left = left - amount
        add_line(lines, pool, i, amount, KIND.prepaid)
      end
    end
  end
  for i = 1, #list do
    if left <= 0 then break end
    local b = list[i]
    if b[B.overage] == 1 then
      local amount = left
      if b[B.max] >= 0 then amount = min(left, max(0, b[B.max] - b[B.over])) end
      if amount > 0 then
        b[B.over] = b[B.over] + amount
        left = left - amount
        add_line(lines, pool, i, amount, KIND.overage)
      end
    end
  end
  if force and left > 0 then
    local b = list[#list]
    b[B.over] = b[B.over] + left
    add_line(lines, pool, #list, left, KIND.overage)
    left = 0
  end
  return lines, need - left
end

local function give_back(pool, amount)
  local list, left = pool[POOL.list], amount
  complete_all(list)
  local lines = {}
  for i = #list, 1, -1 do
    local b = list[i]
    if b[B.unlimited] == 0 then
      local back = min(b[B.over], left)
      if back > 0 then
        b[B.over] = b[B.over] - back
        left = left - back
        add_line(lines, pool, i, -back, KIND.overage)
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
        add_line(lines, pool, i, -back, KIND.unlimited)
      end
    else
      local back = min(b[B.prepaid] - b[B.prepaid_left], left)
      if back > 0 then
        b[B.prepaid_left] = b[B.prepaid_left] + back
        left = left - back
        add_line(lines, pool, i, -back, KIND.prepaid)
      end
      back = min(b[B.included] - b[B.included_left], left)
      if back > 0 then
        b[B.included_left] = b[B.included_left] + back
        left = left - back
        add_line(lines, pool, i, -back, KIND.included)
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
      add_line(lines, pool, rollovers[i].i, -back, KIND.rollover)
    end
  end
  return lines, left - amount
end

-- Whether every amount of the pool still fits. What was granted does, and usage is no more
-- where nothing goes beyond it.
local function fits(pool)
  local list = pool[POOL.list]
  for i = 1, #list do
    local b = list[i]
    if b[B.over] > 0 or b[B.from_rollovers] > 0 then
      complete(b)
      if usage_of(b) > LIMIT.max or b[B.over] > LIMIT.max then return false end
    end
  end
  return true
end
