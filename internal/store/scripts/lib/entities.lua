-- uses: layout msgpack call shared rollovers
-- lazy: entities
-- The entities of a customer: finding them, applying what is due of what they share, and getting what they share
-- into a view.

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

local function add_part(view, p)
  view.shared_from = view.shared_from or #view.parts + 1
  view.parts[#view.parts + 1] = p
end

-- Gets the parts of all entities.
local function load_all(view)
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
