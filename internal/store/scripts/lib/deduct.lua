-- uses: layout msgpack call pool rollovers
-- lazy: whole
-- Taking an amount off a view, and giving it back (semantics: Deduction order).
--
-- deduct(view, need, force): takes up to need and returns the lines and what was taken. force: what
--   finds no room goes into overage on the last balance, whatever its bounds. Of a line, part and
--   balance count from 0. Parts that are changed have touched set.
-- give_back(view, amount): the way back, no further than to what was granted.
-- apply(views): either of them, for views that are drawn from together.
-- Invariant: remaining never grows past granted, no part of a balance turns negative, and the lines
-- add up to what was taken.

-- Notes what was taken of balance i of part n.
local function add_line(view, lines, n, i, amount, kind)
  local m = #lines
  lines[m + 1], lines[m + 2], lines[m + 3], lines[m + 4] = n - 1, (i - POOL.base) / B.size, amount, kind
  local p = view.parts[n]
  p.touched = true
  if view.hold then
    view.hold[p] = p.text -- it is packed again when the change ends
    p.s[i + B.held] = p.s[i + B.held] + amount
  end
end

-- Moves what there is, up to left, into or out of a value of a balance, and returns what is still left.
local function move(view, lines, n, i, field, sign, there_is, left, taken, kind)
  local amount = there_is < left and there_is or left
  if amount <= 0 then return left end
  local s = view.parts[n].s
  s[i + field] = s[i + field] + sign * amount
  add_line(view, lines, n, i, taken * amount, kind)
  return left - amount
end

-- The balances of a view that have rollovers, for rollovers.lua, and which part each is of.
local function with_rollovers(view)
  local list, part_of = {}, {}
  each_balance(view, function(s, i, n)
    if s[i + B.rollovers] ~= '' then list[#list + 1], part_of[#part_of + 1] = { s, i }, n end
  end)
  return list, part_of
end

local function deduct(view, need, force)
  local parts, shared_from, left, lines = view.parts, view.shared_from or math.huge, need, {}
  if view.rollovers then
    local list, part_of = with_rollovers(view)
    left = left - take_rollovers(list, left, function(place, amount)
      add_line(view, lines, part_of[place], list[place][2], amount, KIND.rollover)
    end)
  end
  local last_n, last_i
  for n = 1, #parts do
    local s = parts[n].s
    for i = POOL.base, #s - 1, B.size do
      local flags = s[i + B.flags]
      if n < shared_from or flags % FLAG.overage >= FLAG.shared then
        last_n, last_i = n, i
        if left > 0 then
          if flags % 2 == FLAG.unlimited then
            left = move(view, lines, n, i, B.over, 1, left, left, 1, KIND.unlimited)
          else
            left = move(view, lines, n, i, B.included_left, -1, s[i + B.included_left], left, 1, KIND.included)
            if left > 0 then left = move(view, lines, n, i, B.prepaid_left, -1, s[i + B.prepaid_left], left, 1, KIND.prepaid) end
          end
        elseif not force then
          return lines, need
        end
      end
    end
  end
  if left > 0 then
    each_balance(view, function(s, i, n)
      if left > 0 and allows_overage(s, i) then
        local room = s[i + B.max] < 0 and left or s[i + B.max] - s[i + B.over]
        left = move(view, lines, n, i, B.over, 1, room, left, 1, KIND.overage)
      end
    end)
  end
  if force and left > 0 then left = move(view, lines, last_n, last_i, B.over, 1, left, left, 1, KIND.overage) end
  return lines, need - left
end

local function give_back(view, amount)
  local lines, left, balances = {}, amount, {}
  each_balance(view, function(s, i, n) balances[#balances + 1] = { s, i, n } end)
  local function back(s, i, n, field, sign, there_is, kind)
    left = move(view, lines, n, i, field, sign, min(there_is, returnable(s, i)), left, -1, kind)
  end
  for k = #balances, 1, -1 do
    local s, i, n = unpack(balances[k])
    if not is_unlimited(s, i) then back(s, i, n, B.over, -1, s[i + B.over], KIND.overage) end
  end
  for k = #balances, 1, -1 do
    local s, i, n = unpack(balances[k])
    if is_unlimited(s, i) then
      back(s, i, n, B.over, -1, s[i + B.over], KIND.unlimited)
    else
      back(s, i, n, B.prepaid_left, 1, s[i + B.prepaid] - s[i + B.prepaid_left], KIND.prepaid)
      back(s, i, n, B.included_left, 1, s[i + B.included] - s[i + B.included_left], KIND.included)
    end
  end
  if left > 0 then
    local list, part_of = with_rollovers(view)
    left = left - give_back_rollovers(list, left, returnable, function(place, returned)
      add_line(view, lines, part_of[place], list[place][2], returned, KIND.rollover)
    end)
  end
  return lines, left - amount
end

-- Whether every amount of a balance fits. What was granted does, and usage is no more if nothing goes beyond it.
local function fits(s, i)
  local over = s[i + B.over]
  return over <= LIMIT.max and (over == 0 and s[i + B.from_rollovers] == 0 or usage_of(s, i) <= LIMIT.max)
end

-- Ends a change of views; false if an amount would not fit. Then, or if it was only tried, nothing is changed.
local function end_change(views, only_tried)
  local touched, fitting = {}, true
  for _, view in ipairs(views) do
    for _, p in ipairs(view.parts) do
      if p.touched then
        local s = p.s
        touched[#touched + 1], p.touched = p, false
        for i = POOL.base, #s - 1, B.size do fitting = fitting and fits(s, i) end
      end
    end
  end
  for _, p in ipairs(touched) do
    if fitting and not only_tried then pool_changed(p) else reopen(p) end
  end
  return fitting
end

-- Takes from each view what is to be taken from it, or gives back where that is negative; sets lines and amount. Returns
-- whether all of it fits. If it does not, or is only tried, nothing is changed.
local function apply(views, only_tried)
  for _, view in ipairs(views) do
    if view.take ~= 0 and load_for(view, view.take, view.force) == false then return false end
  end
  for _, view in ipairs(views) do
    local take = view.take
    if take ~= 0 then
      resumable = false
      if take < 0 then view.lines, view.amount = give_back(view, -take) else view.lines, view.amount = deduct(view, take, view.force) end
    end
  end
  if end_change(views, only_tried) then return true end
  for _, view in ipairs(views) do view.lines, view.amount = NOTHING, 0 end
  return false
end

local function is_taken(views)
  for _, view in ipairs(views) do
    if #view.lines > 0 then return true end
  end
  return false
end
