-- uses: layout msgpack struct call rollovers shared entities settle
-- lazy: whole
-- Pools: the live balances that one check may draw from (semantics: Which balances are in the pool,
-- Allowed or not, Deduction order).
--
-- A view is the pool as a customer or an entity sees it:
--   feature, parts: pools of owners (call.lua) in deduction order, shared_from: the part from which on
--   only shared balances are in it; rollovers, whether there may be any; customer; shared, its SHARED where entities are too
--   many to be parts, and shown, those of their pools that a snapshot shows (entities.lua); and once a need was decided
--   against it (decide) need, code, allowed, available: what is left in it, and open: what its overage has room for, bounds
--   apart; factor: of a credit system, its cost (choose.lua); take and force: what apply takes from it; hold: false, or what it
--   takes is held, and here are the pools as they were before (locks.lua); and then lines and amount: what it took
-- Balance i of a part has its values at s[i + B.x], i = POOL.base, POOL.base + B.size, ...

local function is_unlimited(s, i) return s[i + B.flags] % 2 == FLAG.unlimited end
local function allows_overage(s, i) return s[i + B.flags] >= FLAG.overage end
local function is_shared(s, i) return s[i + B.flags] % FLAG.overage >= FLAG.shared end

local function usage_of(s, i)
  return s[i + B.included] - s[i + B.included_left] + s[i + B.prepaid] - s[i + B.prepaid_left] + s[i + B.over] + s[i + B.from_rollovers]
end
local function remaining_of(s, i)
  local left, rollovers = s[i + B.included_left] + s[i + B.prepaid_left], s[i + B.rollovers]
  if rollovers ~= '' then left = left + rollovers_left(rollovers) end
  return left
end

-- What a negative amount may give back of a balance: locks hold the rest.
local function returnable(s, i) return usage_of(s, i) - s[i + B.held] end

-- What of it goes back to overage, and what goes back to what was granted.
local function returnable_over(s, i) return is_unlimited(s, i) and 0 or min(s[i + B.over], returnable(s, i)) end
local function returnable_used(s, i)
  if is_unlimited(s, i) then return min(s[i + B.over], returnable(s, i)) end
  local used = s[i + B.included] - s[i + B.included_left] + s[i + B.prepaid] - s[i + B.prepaid_left]
  return min(used, returnable(s, i) - returnable_over(s, i))
end

-- The byte behind a packed balance that begins at a byte, and its values, in the order of B.
local function values_of_balance(size, text, at_byte)
  local included_left, included, resets, expires, flags, details, next_byte = struct_unpack(size.each, text, at_byte)
  if flags < FLAG.more then return next_byte, included_left, included, resets, expires, flags, details, 0, 0, 0, 0, -1, '', 0 end
  local prepaid_left, over, from_rollovers, prepaid, most, held, rollovers, behind_more = struct_unpack(size.more, text, next_byte)
  return behind_more, included_left, included, resets, expires, flags - FLAG.more, details, prepaid_left, over, from_rollovers, prepaid, most - 1, rollovers, held
end

-- The values of a pool, and the text that they are packed in.
local function values_of_pool(text)
  if text == '' then return { 0 } end
  local size = format_of_pool(text)
  local _, due = struct_unpack(size.head, text)
  -- values_of_balance returns the byte first: it has the place of what is due in the list until that is put there.
  local s = { values_of_balance(size, text, size.first) }
  local at_byte, i = s[POOL.due], #s - 1
  s[POOL.due] = due
  while at_byte <= #text do
    local b = { values_of_balance(size, text, at_byte) }
    for j = 1, B.size do s[i + 1 + j] = b[j + 1] end
    at_byte, i = b[1], i + B.size
  end
  return s
end

-- Whether all amounts and times of a balance fit a small pool.
local function is_small(s, i)
  local most = LIMIT.small
  return s[i + B.included_left] <= most and s[i + B.included] <= most and s[i + B.prepaid_left] <= most and s[i + B.over] <= most
    and s[i + B.from_rollovers] <= most and s[i + B.prepaid] <= most and s[i + B.max] < most and s[i + B.held] <= most
    and s[i + B.resets] <= LIMIT.small_time and s[i + B.expires] <= LIMIT.small_time
end

-- A balance, packed in a format.
local function text_of_balance(size, s, i)
  local flags, more = s[i + B.flags], ''
  local prepaid_left, over, from_rollovers, prepaid = s[i + B.prepaid_left], s[i + B.over], s[i + B.from_rollovers], s[i + B.prepaid]
  local most, rollovers, held, details = s[i + B.max], s[i + B.rollovers], s[i + B.held], s[i + B.details]
  if prepaid_left > 0 or over > 0 or from_rollovers > 0 or prepaid > 0 or most >= 0 or rollovers ~= '' or held > 0 then
    flags, more = flags + FLAG.more, struct_pack(size.more, prepaid_left, over, from_rollovers, prepaid, most + 1, held, #rollovers, rollovers)
  end
  return struct_pack(size.each, s[i + B.included_left], s[i + B.included], s[i + B.resets], s[i + B.expires], flags, #details, details) .. more
end

-- The place of the balance that the next deduction starts with, 0 if nothing is left; nil if a check cannot be decided
-- from that balance alone (quick.lua).
local function first_to_take_from(s)
  local first, balances = 0, (#s - 1) / B.size
  if balances > LIMIT.quick then return nil end
  for i = POOL.base, #s - 1, B.size do
    if s[i + B.rollovers] ~= '' or is_unlimited(s, i) or s[i + B.over] > 0 or s[i + B.from_rollovers] > 0 then return nil end
    if first == 0 and s[i + B.included_left] + s[i + B.prepaid_left] > 0 then first = i end
  end
  return first
end

local function text_of_pool(s)
  local n = #s
  if n == POOL.base then return '' end
  local size = formats.small
  for i = POOL.base, n - 1, B.size do
    if not is_small(s, i) then size = formats.large end
  end
  local first, at_byte, first_at, number = first_to_take_from(s), size.first, 0, 0
  if first == 0 then first_at = 1 end
  if n == POOL.base + B.size then -- nearly always
    if first == POOL.base then first_at = size.first end
    return struct_pack(size.head, size.mark, s[POOL.due], first_at, 0) .. text_of_balance(size, s, POOL.base)
  end
  local pieces = { '' }
  for i = POOL.base, n - 1, B.size do
    if i == first and at_byte < LIMIT.quick_bytes then first_at, number = at_byte, #pieces - 1 end
    local piece = text_of_balance(size, s, i)
    pieces[#pieces + 1], at_byte = piece, at_byte + #piece
  end
  pieces[1] = struct_pack(size.head, size.mark, s[POOL.due], first_at, number)
  return table.concat(pieces)
end

-- The view of a feature that the customer, or one of its entities, has. Of shared balances of many entities
-- it has only what they add up to, in shared; load_all and load_for get their parts.
local function view_of(c, feature, entity)
  local view = {
    feature = feature, parts = {}, shared_from = nil, shared = nil, shown = nil, customer = c,
    need = false, code = false, allowed = false, available = 0, open = 0, rollovers = true,
    take = 0, force = false, hold = false, lines = NOTHING, amount = 0,
  }
  local parts = view.parts
  if entity then parts[1] = pool_of(entity, feature) or nil end
  local own = pool_of(c, feature)
  if own then parts[#parts + 1] = own end
  if not entity and c.v[C.shared] ~= '' then
    local shared = shared_of(c, feature)
    if shared then
      walk_if_due(c, shared)
      view.shared = shared
      if shared[SHARED.holders] <= LIMIT.visits then load_all(view) else find_shown(view) end
    end
  end
  return view
end

-- Visits the balances of a view's parts, in deduction order: visit(s, i, n), n the place of the part.
local function each_balance(view, visit)
  for n, p in ipairs(view.parts) do
    local s, only_shared = p.s, view.shared_from and n >= view.shared_from
    for i = POOL.base, #s - 1, B.size do
      if not only_shared or is_shared(s, i) then visit(s, i, n) end
    end
  end
end

-- Decides need against a view, false where it does not fit the view's units: sets need, code, allowed, and
-- whether there are rollovers.
local function decide(view, need)
  local available, bounded_by, unbounded, may_overage, empty, unlimited = 0, 0, false, false, true, false
  local parts, shared_from = view.parts, view.shared_from or math.huge
  view.rollovers = false
  for n = 1, #parts do
    local s = parts[n].s
    for i = POOL.base, #s - 1, B.size do
      local flags = s[i + B.flags]
      if n < shared_from or flags % FLAG.overage >= FLAG.shared then
        empty = false
        available = available + s[i + B.included_left] + s[i + B.prepaid_left]
        local rollovers = s[i + B.rollovers]
        if rollovers ~= '' then
          view.rollovers = true
          available = available + rollovers_left(rollovers)
        end
        if flags > 0 then
          unlimited = unlimited or flags % 2 == FLAG.unlimited
          if flags >= FLAG.overage then
            may_overage = true
            local most = s[i + B.max]
            if most < 0 then unbounded = true else bounded_by = bounded_by + max(0, most - s[i + B.over]) end
          end
        end
      end
    end
  end
  local shared = view.shared
  if shared then
    empty = false
    available = available + sum_at(shared, SHARED.remaining)
    unlimited = unlimited or shared[SHARED.unlimited] > 0
    may_overage = may_overage or shared[SHARED.overage] > 0
    unbounded = unbounded or shared[SHARED.unbounded] > 0
    bounded_by = bounded_by + sum_at(shared, SHARED.open)
  end
  view.need, view.allowed, view.available, view.open = need, true, available, bounded_by
  if not need then
    view.code, view.allowed = 'amount_out_of_range', false
  elseif empty then
    view.code, view.allowed = 'not_entitled', false
  elseif unlimited then
    view.code = 'unlimited'
  elseif need <= 0 or available >= need then
    view.code = 'included'
  elseif not may_overage then
    view.code, view.allowed = 'insufficient_balance', false
  elseif unbounded or need - available <= bounded_by then
    view.code = 'overage'
  else
    view.code, view.allowed = 'max_purchase_reached', false
  end
end
