-- uses: layout msgpack struct call rollovers calendar shared
-- Pools: the live balances that one check may draw from (semantics: Which balances are in the pool,
-- Allowed or not, Deduction order).
--
-- A view is the pool as a customer or an entity sees it:
--   feature, parts: pools of owners (call.lua) in deduction order, shared_from: the part from which on
--   only shared balances are in it; rollovers, whether there may be any; and once a need was decided
--   against it (decide) need, code, allowed
-- Balance i of a part has its values at s[i + B.x], i = POOL.base, POOL.base + B.size, ...

local load_all

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

-- The list that a pool is packed in, and back.
values_of_pool = function(text)
  if text == '' then return { 0 } end
  local size = string.byte(text, 1, 1) == formats.small.mark and formats.small or formats.large
  -- The last of what struct returns is the position behind what it read.
  local s = { struct_unpack(size.first_read, text, 2) }
  local behind = POOL.base + B.size + 1
  local at_byte = s[behind]
  s[behind] = nil
  s[POOL.base + B.max] = s[POOL.base + B.max] - 1
  while at_byte <= #text do
    local b, i = { struct_unpack(size.each, text, at_byte) }, #s
    for j = 1, B.size do s[i + j] = b[j] end
    s[i + B.max], at_byte = s[i + B.max] - 1, b[B.size + 1]
  end
  return s
end

-- Whether all amounts and times of a balance fit a small pool.
local function is_small(s, i)
  local most = LIMIT.small
  return s[i + 1] <= most and s[i + 2] <= most and s[i + 3] <= most and s[i + 4] <= most and s[i + 5] <= most and s[i + 6] <= most
    and s[i + B.max] < most and s[i + B.resets] <= LIMIT.small_time and s[i + B.expires] <= LIMIT.small_time
end
text_of_pool = function(s)
  local n = #s
  if n == POOL.base then return '' end
  local size = formats.small
  for i = POOL.base, n - 1, B.size do
    if not is_small(s, i) then size = formats.large end
  end
  local first = struct_pack(size.first, size.mark, s[1], s[2], s[3], s[4], s[5], s[6], s[7], s[8], s[9], s[10], s[11] + 1,
    #s[12], s[12], #s[13], s[13])
  if n == POOL.base + B.size then return first end
  local pieces = { first }
  for i = POOL.base + B.size, n - 1, B.size do
    pieces[#pieces + 1] = struct_pack(size.each, s[i + 1], s[i + 2], s[i + 3], s[i + 4], s[i + 5], s[i + 6], s[i + 7], s[i + 8], s[i + 9],
      s[i + 10] + 1, #s[i + 11], s[i + 11], #s[i + 12], s[i + 12])
  end
  return table.concat(pieces)
end

-- Average length of a period; math.huge where there is none.
local AVERAGE_MS = { 60000, 3600000, 86400000, 604800000, 2629746000, 7889238000, 15778476000, 31556952000 }

-- A balance by itself: its values as in a pool, from 1 on, and details, the values of D.
-- Whether it is deducted before another of the same owner.
local function deducted_before(x, y)
  local x_flags, y_flags = x[B.flags], y[B.flags]
  if x_flags % 2 ~= y_flags % 2 then return x_flags % 2 == FLAG.unlimited end
  local d, e = x.details, y.details
  local x_period = (AVERAGE_MS[d[D.unit]] or math.huge) * d[D.count]
  local y_period = (AVERAGE_MS[e[D.unit]] or math.huge) * e[D.count]
  if x_period ~= y_period then return x_period < y_period end
  local x_expires, y_expires = x[B.expires], y[B.expires]
  if x_expires ~= y_expires then
    if x_expires == 0 or y_expires == 0 then return y_expires == 0 end
    return x_expires < y_expires
  end
  if d[D.rank] ~= e[D.rank] then return d[D.rank] < e[D.rank] end
  local x_overage, y_overage = x_flags >= FLAG.overage, y_flags >= FLAG.overage
  if x_overage ~= y_overage then return y_overage end
  return d[D.seq] < e[D.seq]
end

-- The balances of a pool by themselves, and a pool of such.
local function balances_of(s)
  local list = {}
  for i = POOL.base, #s - 1, B.size do
    local b = { unpack(s, i + 1, i + B.size) }
    b.details = values_of(b[B.details])
    list[#list + 1] = b
  end
  return list
end
local function put_balances(s, list)
  table.sort(list, deducted_before)
  local due, n = math.huge, POOL.base
  for _, b in ipairs(list) do
    b[B.details] = text_of(b.details)
    for j = 1, B.size do s[n + j] = b[j] end
    n = n + B.size
    if b[B.resets] > 0 then due = min(due, b[B.resets]) end
    if b[B.expires] > 0 then due = min(due, b[B.expires]) end
    if b[B.rollovers] ~= '' then
      local expiry = next_expiry(b[B.rollovers])
      if expiry > 0 then due = min(due, expiry) end
    end
  end
  for j = #s, n + 1, -1 do s[j] = nil end
  s[POOL.due] = due < math.huge and due or 0
end

-- Applies what is due of a pool: the expired are gone, resets are applied.
settle = function(p, feature)
  if not rows then error(NEEDS_ROWS) end
  local s, live = p.s, {}
  local settle_balance = calendar()
  for i = POOL.base, #s - 1, B.size do
    if s[i + B.expires] == 0 or s[i + B.expires] > now then settle_balance(s, i, feature, now, rows) end
  end
  for _, b in ipairs(balances_of(s)) do
    if b[B.expires] == 0 or b[B.expires] > now then live[#live + 1] = b end
  end
  put_balances(s, live)
  pool_changed(p)
end

local function how_many_entities(c) return c.v[C.entities] ~= '' and c.v[C.entities][2] or 0 end

-- The entity of a customer, false where there is none.
local function entity_of(c, id, place)
  c.owners = c.owners or {}
  local owner = c.owners[id]
  if owner == nil then
    local key = c.key .. ':e:' .. id
    local v = readable(key, place and place > 0 and stored[place])
    owner = v and v[E.life] == c.v[C.life] and { key = key, entity = id, v = v, pools = {}, changed = false, customer = c }
    c.owners[id] = owner
  end
  return owner
end

-- The ids of a chunk of the directory; c.chunks are those that were looked at.
local function ids_of_chunk(c, chunk)
  c.chunks = c.chunks or {}
  local ids = c.chunks[chunk]
  if not ids then
    local text = call('GET', c.key .. ':d:' .. chunk)
    ids = text and text ~= '' and values_of(text) or { c.v[C.life] }
    if ids[1] ~= c.v[C.life] then ids = { c.v[C.life] } end
    c.chunks[chunk] = ids
  end
  return ids
end

-- The entity with a number, nil if it is gone.
local function entity_by_number(c, number)
  local place = number % DIRECTORY.size
  local id = ids_of_chunk(c, (number - place) / DIRECTORY.size)[place + 2]
  return id and id ~= '' and entity_of(c, id) or nil
end

-- Visits the customer's entities, in the order of their creation, until visit(entity) returns true.
local function each_entity(c, visit)
  if c.v[C.entities] == '' then return end
  local next_number, _, first = unpack(c.v[C.entities])
  for number = first, next_number - 1 do
    local entity = entity_by_number(c, number)
    if entity and visit(entity) then return end
  end
end

-- Applies what is due of the shared balances of a feature, LIMIT.visits entities at a time if the step can be
-- sent again.
local function walk_shared(c, shared)
  local feature, next_number = shared[SHARED.feature], c.v[C.entities][1]
  if shared[SHARED.walk] < 0 then shared[SHARED.walk], shared[SHARED.walk_due] = c.v[C.entities][3], 0 end
  c.changed = true
  for _ = 1, resumable and LIMIT.visits or math.huge do
    local number = shared[SHARED.walk]
    if number >= next_number then
      shared[SHARED.walk], shared[SHARED.due] = -1, shared[SHARED.walk_due]
      return
    end
    local entity = entity_by_number(c, number)
    local p = entity and pool_of(entity, feature)
    local due = p and has_shared(p.s) and p.s[POOL.due] or 0
    if due > 0 and (shared[SHARED.walk_due] == 0 or due < shared[SHARED.walk_due]) then shared[SHARED.walk_due] = due end
    shared[SHARED.walk] = number + 1
  end
  error(NEEDS_MORE)
end
local function walk_if_due(c, shared)
  if shared[SHARED.due] > 0 and shared[SHARED.due] <= now then walk_shared(c, shared) end
end

-- The view of a feature that the customer, or one of its entities, has. Of shared balances of many entities
-- it has only what they add up to, in shared; load_all and load_for get their parts.
local function view_of(c, feature, entity)
  local view = {
    feature = feature, parts = {}, shared_from = nil, shared = nil, customer = c,
    need = false, code = false, allowed = false, rollovers = true,
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
      if shared[SHARED.holders] <= LIMIT.visits then load_all(view) end
    end
  end
  return view
end

local function add_part(view, p)
  view.shared_from = view.shared_from or #view.parts + 1
  view.parts[#view.parts + 1] = p
end

-- Gets the parts of all entities.
load_all = function(view)
  if not view.shared then return end
  each_entity(view.customer, function(entity)
    local p = pool_of(entity, view.feature)
    if p and has_shared(p.s) then add_part(view, p) end
  end)
  view.shared, view.rollovers = nil, true
end

-- Gets the parts of those entities that need is drawn from. It may have to be sent again.
local function load_for(view, need)
  local shared, c = view.shared, view.customer
  if not shared then return end
  if not resumable or need < 0 or shared[SHARED.rolling] + shared[SHARED.overage] + shared[SHARED.unlimited] > 0 then return load_all(view) end
  for n = 1, #view.parts do
    local s = view.parts[n].s
    for i = POOL.base, #s - 1, B.size do need = need - s[i + B.included_left] - s[i + B.prepaid_left] end
    if view.rollovers then
      for i = POOL.base, #s - 1, B.size do need = need - rollovers_left(s[i + B.rollovers]) end
    end
  end
  need = min(need, sum_at(shared, SHARED.remaining)) -- there is no more
  local holes, kept, parts = shared[SHARED.holes], {}, {}
  local function look_at(number)
    local entity = entity_by_number(c, number)
    local p = entity and pool_of(entity, view.feature)
    local left = p and shared_left(p.s) or 0
    if left > 0 then
      kept[#kept + 1], parts[#parts + 1] = number, p
      need = need - left
    end
  end
  c.changed = true
  local n = 1
  while need > 0 and n <= #holes do
    look_at(holes[n])
    n = n + 1
  end
  for k = n, #holes do kept[#kept + 1] = holes[k] end
  local visits = 0
  while need > 0 and visits < LIMIT.visits and #kept < LIMIT.holes do
    local number = shared[SHARED.cursor]
    if number >= c.v[C.entities][1] then error('shared balances do not hold what they add up to') end
    look_at(number)
    shared[SHARED.cursor], visits = number + 1, visits + 1
  end
  shared[SHARED.holes] = kept
  if need > 0 then
    if #kept >= LIMIT.holes then return false end
    error(NEEDS_MORE)
  end
  for k = 1, #parts do add_part(view, parts[k]) end
end

-- Visits the balances of a view's parts, in deduction order: visit(s, i, part).
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
  view.need, view.allowed = need, true
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
