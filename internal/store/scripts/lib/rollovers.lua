-- uses: layout msgpack call
-- lazy: rollovers
-- The rollovers of balances, in runs (R): taking from them, and giving back (semantics: Deduction order).
--
-- next_expiry(text): when the first of a balance's rollovers expires, 0 for never. One of which all
--   is taken counts: until it expires something may be given back to it.
-- rollovers_left(text): what is left of them. soonest_left(text): when the first of it expires.
-- take_rollovers(pool, need, add_line): takes up to need from the rollovers of pool, a list of {s, i} in
--   deduction order, the one that expires soonest first (at the same time: in the order of the balances),
--   and returns what was taken. It calls add_line(place in pool, amount) in the order of taking, once
--   for what comes from one balance without a break.
-- give_back_rollovers(pool, amount, most_of, add_line): the way back, up to what this period took of those that
--   are alive, and of each balance no more than most_of(s, i); returns how much went back, and gives add_line negative
--   amounts.
-- pieces_between(before, after): what was taken of which rollovers between two texts of them. give_back_to(text, expires,
--   amount): gives back to a very rollover.
--
-- Runs of a balance are in the order of their making. Invariant: of a run, the expiries grow by step; what
-- is taken of it is taken from its first on, because the first expires first; all that a balance's
-- rollovers hold is at most LIMIT.max.
local EXPIRY = { never = 9007199254740991 } -- later than any other; its neighbours, below zero too, are exact

-- How many of a run have expired at a time.
local function expired_by(runs, j, time)
  local expires, n = runs[j + R.expires], runs[j + R.n]
  if expires == 0 then return time >= EXPIRY.never and n or 0 end
  if time < expires then return 0 end
  if n == 1 then return 1 end
  return min(n, floor((time - expires) / runs[j + R.step]) + 1)
end

-- What the first k of a run held when the period began.
local function held_by(runs, j, k)
  if k == 0 then return 0 end
  return runs[j + R.held] + (k - 1) * runs[j + R.each]
end

local function text_of_runs(runs)
  return #runs > 0 and text_of(runs) or ''
end

local function next_expiry(text)
  if text == '' then return 0 end
  local runs, soonest = values_of(text), EXPIRY.never
  for j = 0, #runs - R.size, R.size do
    local expires = runs[j + R.expires]
    if expires > 0 and expires < soonest then soonest = expires end
  end
  return soonest < EXPIRY.never and soonest or 0
end

local function rollovers_left(text)
  if text == '' then return 0 end
  local runs, left = values_of(text), 0
  for j = 0, #runs - R.size, R.size do
    left = left + runs[j + R.held] + (runs[j + R.n] - 1) * runs[j + R.each] - runs[j + R.taken]
  end
  return left
end

-- Taking and giving back are the same walk: sign is 1 for taking, -1 for giving back. A key orders what is to
-- be moved, the least first: the expiry for taking, the expiry below zero for giving back.

-- The key of the first of a run that has something to move; nil where none has.
local function key_of_run(runs, j, sign)
  local held, each, taken, k = runs[j + R.held], runs[j + R.each], runs[j + R.taken], 0
  if sign > 0 then
    if taken >= held then k = floor((taken - held) / each) + 1 end
    if k >= runs[j + R.n] then return nil end
  else
    if taken == 0 then return nil end
    if taken > held then k = math.ceil((taken - held) / each) end
  end
  local expires = runs[j + R.expires]
  return sign * (expires == 0 and EXPIRY.never or expires + k * runs[j + R.step])
end

local function first_key(runs, sign)
  local first
  for j = 0, #runs - R.size, R.size do
    local key = key_of_run(runs, j, sign)
    if key and (not first or key < first) then first = key end
  end
  return first
end

-- When the soonest rollover that something is left of expires, EXPIRY.never for never; nil if nothing is left.
local function soonest_left(text) return first_key(values_of(text), 1) end

-- How much of a run can be moved up to a key, including it.
local function movable(runs, j, sign, key)
  if sign > 0 then return max(0, held_by(runs, j, expired_by(runs, j, key)) - runs[j + R.taken]) end
  return max(0, runs[j + R.taken] - held_by(runs, j, expired_by(runs, j, -key - 1)))
end

-- How much of a balance's rollovers can be taken, or given back, up to a key.
local function movable_until(text, sign, key)
  local runs, amount = values_of(text), 0
  for j = 0, #runs - R.size, R.size do amount = amount + movable(runs, j, sign, key) end
  return amount
end

-- When the latest rollover that something was taken of expires, below zero; nil if nothing was taken.
local function latest_taken(text) return first_key(values_of(text), -1) end

-- Moves up to most of one balance's rollovers, those from key from to key to, and returns how much. It
-- looks for the key up to which all is moved by halving, so that the length of runs costs nothing,
-- however they lie among each other.
local function move_runs(runs, sign, from, to, most)
  local function move(j, amount) runs[j + R.taken] = runs[j + R.taken] + sign * amount end
  local open, total = {}, 0
  for j = 0, #runs - R.size, R.size do
    local amount = movable(runs, j, sign, to)
    if amount > 0 then
      open[#open + 1] = j
      total = total + amount
    end
  end
  if total <= most then
    for _, j in ipairs(open) do move(j, movable(runs, j, sign, to)) end
    return total
  end
  -- Up to key before, the open runs have less than left, up to key last they have it.
  local left, before, last = most, from - 1, to
  while #open > 1 and last - before > 1 do
    local middle, amounts, sum = before + floor((last - before) / 2), {}, 0
    for n, j in ipairs(open) do
      amounts[n] = movable(runs, j, sign, middle)
      sum = sum + amounts[n]
    end
    local enough, still_open = sum >= left, {}
    for n, j in ipairs(open) do
      if enough then
        if amounts[n] > 0 then still_open[#still_open + 1] = j end
      elseif amounts[n] == movable(runs, j, sign, to) then
        move(j, amounts[n])
        left = left - amounts[n]
      else
        still_open[#still_open + 1] = j
      end
    end
    open = still_open
    if enough then last = middle else before = middle end
  end
  for _, j in ipairs(open) do
    local amount = movable(runs, j, sign, before)
    move(j, amount)
    left = left - amount
  end
  for n = 1, #open do -- of those with the same expiry, the oldest goes first
    local j = open[sign > 0 and n or #open + 1 - n]
    local amount = min(left, movable(runs, j, sign, last))
    move(j, amount)
    left = left - amount
  end
  return most
end

local function move_rollovers(pool, most, most_of, add_line, sign)
  local runs, keys, heap = {}, {}, {} -- by place in the pool; a heap of places, the first to move from on top
  local function goes_before(place, other)
    if keys[place] ~= keys[other] then return keys[place] < keys[other] end
    return sign * place < sign * other
  end
  local function sink()
    local at, n = 1, #heap
    while 2 * at <= n do
      local child = 2 * at
      if child < n and goes_before(heap[child + 1], heap[child]) then child = child + 1 end
      if not goes_before(heap[child], heap[at]) then return end
      heap[at], heap[child] = heap[child], heap[at]
      at = child
    end
  end
  for place = 1, #pool do
    local text = pool[place][1][pool[place][2] + B.rollovers]
    if text ~= '' then
      runs[place] = values_of(text)
      keys[place] = first_key(runs[place], sign)
      if keys[place] then heap[#heap + 1] = place end
    end
  end
  table.sort(heap, goes_before)

  local left, changed = most, {}
  while left > 0 and #heap > 0 do
    local place, to = heap[1], sign > 0 and EXPIRY.never or 0
    local second = heap[2]
    if heap[3] and goes_before(heap[3], second) then second = heap[3] end
    if second then to = sign * place < sign * second and keys[second] or keys[second] - 1 end
    local s, i = pool[place][1], pool[place][2]
    local bound = most_of and most_of(s, i) or left
    local amount = move_runs(runs[place], sign, keys[place], to, min(left, bound))
    s[i + B.from_rollovers] = s[i + B.from_rollovers] + sign * amount
    left = left - amount
    if amount > 0 then
      changed[place] = true
      add_line(place, sign * amount)
    end
    keys[place] = amount < bound and first_key(runs[place], sign) or nil
    if not keys[place] then
      heap[1] = heap[#heap]
      heap[#heap] = nil
    end
    sink()
  end
  for place in pairs(changed) do
    local s, i = pool[place][1], pool[place][2]
    s[i + B.rollovers] = text_of_runs(runs[place])
  end
  return most - left
end

local function take_rollovers(pool, need, add_line) return move_rollovers(pool, need, nil, add_line, 1) end
local function give_back_rollovers(pool, amount, most_of, add_line) return move_rollovers(pool, amount, most_of, add_line, -1) end

-- What each rollover gave: its expiry and the amount in turn, the soonest to expire first. before and after differ in
-- what is taken only. More than LIMIT.pieces count for the last of so many: nobody keeps that many.
local function pieces_between(before, after)
  local runs, later, gave = values_of(before), values_of(after), {}
  for j = 0, #runs - R.size, R.size do
    local from, to, held, each = runs[j + R.taken], later[j + R.taken], runs[j + R.held], runs[j + R.each]
    local k = from < held and 0 or floor((from - held) / each) + 1
    while from < to do
      local amount = min(to, held_by(runs, j, k + 1)) - from
      local expires = runs[j + R.expires]
      if #gave == LIMIT.pieces then
        amount = to - from
        gave[#gave][2] = gave[#gave][2] + amount
      else
        gave[#gave + 1] = { expires == 0 and EXPIRY.never or expires + k * runs[j + R.step], amount, #gave }
      end
      from, k = from + amount, k + 1
    end
  end
  table.sort(gave, function(x, y)
    if x[1] ~= y[1] then return x[1] < y[1] end
    return x[3] < y[3]
  end)
  local pieces = {}
  for n, one in ipairs(gave) do pieces[2 * n - 1], pieces[2 * n] = one[1] < EXPIRY.never and one[1] or 0, one[2] end
  return pieces
end

-- Gives back to the rollovers that expire at a time, and returns the text and how much went back. A rollover in the
-- middle of a run gets one of its own: what is taken of a run is taken from its first on.
local function give_back_to(text, expires, amount)
  local runs, out, given = text == '' and {} or values_of(text), {}, 0
  local function add(j, first, n, taken)
    if n == 0 then return end
    local held = first == 0 and runs[j + R.held] or runs[j + R.each]
    local starts = runs[j + R.expires] == 0 and 0 or runs[j + R.expires] + first * runs[j + R.step]
    for _, value in ipairs({ held, runs[j + R.each], n, taken, starts, runs[j + R.step] }) do out[#out + 1] = value end
  end
  for j = 0, #runs - R.size, R.size do
    local first, n, step, taken = runs[j + R.expires], runs[j + R.n], runs[j + R.step], runs[j + R.taken]
    local k = 0
    if first > 0 and n > 1 then k = (expires - first) / step end
    local is_here = (first == 0 and expires == 0) or (first > 0 and expires > 0 and k >= 0 and k < n and k == floor(k) and first + k * step == expires)
    if first == 0 and n > 1 then -- they never expire: one is as good as another
      local back = is_here and min(amount - given, taken) or 0
      given = given + back
      add(j, 0, n, taken - back)
    else
      local before, with = held_by(runs, j, k), held_by(runs, j, k + 1)
      local of_it = is_here and max(0, min(taken, with) - before) or 0
      local back = min(amount - given, of_it)
      if back == 0 or taken <= with then -- nothing was taken of those behind it
        given = given + back
        add(j, 0, n, taken - back)
      else
        given = given + back
        add(j, 0, k, min(taken, before))
        add(j, k, 1, of_it - back)
        add(j, k + 1, n - k - 1, max(0, taken - with))
      end
    end
  end
  return text_of_runs(out), given
end
