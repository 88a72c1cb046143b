-- uses: layout msgpack call shared rollovers
-- lazy: entities
-- The entities of a customer: finding them, applying what is due of what they share, and getting what they share
-- into a view.

local function how_many_entities(c) return c.v[C.entities] ~= '' and c.v[C.entities][2] or 0 end

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

-- The id of the entity with a number, nil if it is gone.
local function id_by_number(c, number)
  local place = number % DIRECTORY.size
  local id = ids_of_chunk(c, (number - place) / DIRECTORY.size)[place + 2]
  return id ~= '' and id or nil
end

-- The entity with a number, nil if it is gone.
local function entity_by_number(c, number)
  local id = id_by_number(c, number)
  return id and entity_of(c, id) or nil
end

-- Whether a problem lies in what a key holds. Any other problem may pass.
local function is_unreadable(problem)
  local text = type(problem) == 'table' and problem.err or tostring(problem)
  for _, words in ipairs({ 'WRONGTYPE', 'was not written by this version', 'Bad data format', 'Missing bytes', 'msgpack: ', 'data string too short' }) do
    if string.find(text, words, 1, true) then return true end
  end
  return false
end

-- entity_by_number for those who visit all: an entity that cannot be read is passed over. It fails by itself, whenever
-- it is asked for.
local function entity_to_visit(c, number)
  local id = id_by_number(c, number) -- not under pcall: what it reads tells of others, too
  if not id then return nil end
  local is_read, entity = pcall(entity_of, c, id)
  if is_read then return entity or nil end
  if not is_unreadable(entity) then error(entity, 0) end
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
    local entity = entity_to_visit(c, number)
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

-- Finds entities that have something of a kind, in its order, until it adds up to need, or to so many balances where
-- only these are counted. found gets their pools and numbers. Returns how much is missing; nil where it would be more
-- entities than a queue has room for. It may have to be sent again.
local function find(view, kind, need, found, count_only)
  local c, feature = view.customer, view.feature
  local q, sign = queue_of(c, view.shared, kind), direction(kind)
  local places, kept, cursor = q[QUEUE.places], {}, q[QUEUE.cursor]
  local function look_at(place)
    local entity = entity_to_visit(c, sign * place)
    local p = entity and pool_of(entity, feature)
    local amount = p and amount_in(p.s, kind) or 0
    if amount > 0 then
      kept[#kept + 1], found[p] = place, sign * place
      need = need - (count_only and 1 or amount)
    end
  end
  local n = 1
  while need > 0 and n <= #places do
    look_at(places[n])
    n = n + 1
  end
  for k = n, #places do kept[#kept + 1] = places[k] end
  local last, visits = sign > 0 and c.v[C.entities][1] - 1 or -c.v[C.entities][3], 0
  while need > 0 and cursor <= last and (visits < LIMIT.visits or not resumable) and #kept < LIMIT.places do
    look_at(cursor)
    cursor, visits = cursor + 1, visits + 1
  end
  if cursor > q[QUEUE.cursor] or #kept < #places then
    q[QUEUE.places], q[QUEUE.cursor], c.changed = kept, cursor, true
  end
  if need <= 0 or cursor > last then return max(0, need) end
  if #kept < LIMIT.places then error(NEEDS_MORE) end
end

-- Adds pools to a view, in the order of their entities.
local function add_parts(view, found)
  local parts = {}
  for p in pairs(found) do parts[#parts + 1] = p end
  table.sort(parts, function(x, y) return found[x] < found[y] end)
  view.shared_from = view.shared_from or #view.parts + 1
  for _, p in ipairs(parts) do view.parts[#view.parts + 1] = p end
end

-- Gets the parts of all entities.
local function load_all(view)
  local c, shared, found = view.customer, view.shared, {}
  if not shared then return end
  if shared[SHARED.holders] > LIMIT.visits or how_many_entities(c) <= LIMIT.visits then
    each_entity(c, function(entity)
      local p = pool_of(entity, view.feature)
      if p and has_shared(p.s) then found[p] = entity.v[E.number] end
    end)
  else -- few of many
    find(view, WANTED.holder, shared[SHARED.balances], found)
  end
  add_parts(view, found)
  view.shared, view.rollovers = nil, true
end

-- What is left of the rollovers that entities share.
local function rollovers_in(found)
  local left = 0
  for p in pairs(found) do
    local s = p.s
    for i = POOL.base, #s - 1, B.size do
      if is_shared(s, i) and s[i + B.rollovers] ~= '' then left = left + rollovers_left(s[i + B.rollovers]) end
    end
  end
  return left
end

-- What the balances that the customer holds itself have of something.
local function own_amount(view, amount_of)
  local amount = 0
  for n = 1, #view.parts do
    local s = view.parts[n].s
    for i = POOL.base, #s - 1, B.size do amount = amount + amount_of(s, i) end
  end
  return amount
end

-- The entity that deduct looks at last.
local function find_last(view, found)
  local next_number, _, first = unpack(view.customer.v[C.entities])
  for number = next_number - 1, first, -1 do
    local entity = entity_by_number(view.customer, number)
    local p = entity and pool_of(entity, view.feature)
    if p and has_shared(p.s) then
      found[p] = number
      return
    end
  end
end

-- Finds the entities that deduct takes need from, and maybe others; false where they are too many.
local function find_to_take(view, need, force, found)
  local shared, missing = view.shared, need
  for _, expiry in ipairs(soonest_first(shared[SHARED.expiries], 1)) do
    missing = find(view, expiry, missing, found)
    if not missing then return false end
    if missing == 0 then return end
  end
  -- All with rollovers are found. What the customer holds itself comes before what entities have beside these.
  local rolled = rollovers_in(found)
  need = need - rolled - own_amount(view, function(s, i) return is_unlimited(s, i) and math.huge or remaining_of(s, i) end)
  if need <= 0 then return end
  local there = shared[SHARED.unlimited] > 0 and need or min(need, sum_at(shared, SHARED.remaining) - rolled)
  missing = find(view, WANTED.left, there, found)
  if not missing then return false end
  if missing > 0 then error('shared balances do not hold what they add up to') end
  need = need - there - own_amount(view, function(s, i)
    if not allows_overage(s, i) then return 0 end
    return s[i + B.max] < 0 and math.huge or max(0, s[i + B.max] - s[i + B.over])
  end)
  if need > 0 and shared[SHARED.overage] > 0 then need = find(view, WANTED.open, need, found) end
  if not need then return false end
  if need > 0 and force then find_last(view, found) end
end

-- Finds the entities that give_back gives an amount to, and maybe others; false where they are too many.
local function find_to_give_back(view, amount, found)
  local missing = find(view, WANTED.over, amount, found)
  if not missing then return false end
  missing = missing - own_amount(view, returnable_over)
  if missing > 0 then missing = find(view, WANTED.used, missing, found) end
  if not missing then return false end
  missing = missing - own_amount(view, returnable_used)
  for _, expiry in ipairs(soonest_first(view.shared[SHARED.expiries], -1)) do
    if missing <= 0 then return end
    missing = find(view, expiry, missing, found)
    if not missing then return false end
  end
end

-- Finds those that a snapshot shows before others.
local function find_shown(view)
  view.shown = {}
  find(view, WANTED.holder, LIMIT.shown, view.shown)
end

-- Finds those with the rollovers that expire soonest.
local function find_rolling(view, balances, found)
  for _, expiry in ipairs(soonest_first(view.shared[SHARED.expiries], 1)) do
    if balances > 0 then balances = find(view, expiry, balances, found, true) end
  end
end

-- Adds the pools of entities that were found to a view; false if they are too many. It may have to be sent again.
local function add_found(view, found)
  local shared, n = view.shared, 0
  for _ in pairs(found) do n = n + 1 end
  if n > LIMIT.places then return false end
  -- What is shown afterwards is found now: once something has been changed, the step cannot be sent again.
  if shared[SHARED.rolling] > 0 then
    find_rolling(view, LIMIT.shown + 1, view.shown)
    view.rollovers = true
  end
  add_parts(view, found)
end

-- Gets the parts of those entities that need is drawn from, or given back to; false if they are too many. It may have
-- to be sent again.
local function load_for(view, need, force)
  local shared, found, ok = view.shared, {}, nil
  if not shared then return end
  if need < 0 then ok = find_to_give_back(view, -need, found) else ok = find_to_take(view, need, force, found) end
  if ok == false then return false end
  return add_found(view, found)
end
