-- uses: layout msgpack call pool deduct choose convert rollovers entities
-- lazy: locks
-- Locks (semantics: Reservations): what they took, and the way back.
--
-- c.locks are the locks that were looked at, by id, false if there is none; c.held the list of those that are held, and
-- c.held_changed whether it is to be written. The locks, and what is taken off the list, are replaced and not changed, so that a command
-- can be undone.

local function lock_key(c, id) return c.key .. ':l:' .. id end

-- The lock of an id, false if there is none, or none that is remembered.
local function lock_of(c, id)
  c.locks = c.locks or {}
  local lock = c.locks[id]
  if lock == nil then
    lock = readable(lock_key(c, id))
    if lock and lock[LOCK.life] ~= c.v[C.life] then lock = false end
    c.locks[id] = lock
  end
  if lock and lock[LOCK.state] ~= STATE.held and now >= lock[LOCK.settled] + LIMIT.lock_memory then return false end
  return lock
end

local function put_lock(c, id, lock)
  local key = lock_key(c, id)
  c.locks[id] = lock
  put_key(c, key, text_of(lock))
  keep_key(c, key) -- an earlier lock of this id may have been given an end
  -- LIMIT.slack: another worker's clock may be behind.
  if lock[LOCK.state] ~= STATE.held then expire_key(c, key, max(1, lock[LOCK.settled] + LIMIT.lock_memory + LIMIT.slack - now)) end
end

-- The list of the locks that are held: the life of the customer, and HELD of each.
local function held_locks(c)
  if not c.held then
    local text = c.v[C.locks] ~= '' and call('GET', c.key .. ':l')
    c.held = text and text ~= '' and values_of(text) or { c.v[C.life] }
    if c.held[1] ~= c.v[C.life] then c.held = { c.v[C.life] } end
  end
  return c.held
end

local function held_changed(c, list, due, count)
  c.held, c.held_changed, c.changed = list, true, true
  c.v[C.locks] = count > 0 and { due, count } or ''
end

-- Puts a lock on the list: the values of HELD.
local function list_lock(c, values)
  local list, locks = held_locks(c), c.v[C.locks]
  for _, value in ipairs(values) do list[#list + 1] = value end
  local due, count = values[HELD.expires], 1
  if locks ~= '' then due, count = min(due, locks[LOCKS.due]), locks[LOCKS.count] + 1 end
  held_changed(c, list, due, count)
end

-- Takes locks off the list.
local function unlist_locks(c, gone)
  local list, before, due = { c.v[C.life] }, held_locks(c), math.huge
  for i = 1, #before - 1, HELD.size do
    if not gone[before[i + HELD.id]] then
      for j = 1, HELD.size do list[#list + 1] = before[i + j] end
      due = min(due, before[i + HELD.expires])
    end
  end
  held_changed(c, list, due, (#list - 1) / HELD.size)
end

-- Has the list written. It is packed once for all steps of a call: it may be long.
local function write_held_locks(c)
  local key = c.key .. ':l'
  if #c.held > 1 then return put_key(c, key, text_of(c.held)) end
  put_key(c, key, '')
  drop_key(c, key)
end

-- Takes so much of a list of pieces (rollovers.lua), from the first on.
local function take_pieces(pieces, amount)
  local taken = {}
  while amount > 0 and #pieces > 0 do
    local some = min(amount, pieces[2])
    taken[#taken + 1], taken[#taken + 2] = pieces[1], some
    amount, pieces[2] = amount - some, pieces[2] - some
    if pieces[2] == 0 then
      table.remove(pieces, 1)
      table.remove(pieces, 1)
    end
  end
  return taken
end

-- What a lock took from a view: adds a LINE for each line.
local function add_lines(view, lines)
  local pieces_of, before = {}, {} -- of the rollovers of a balance, by its age; pools as they were
  for l = 1, #view.lines, 4 do
    local p, i = view.parts[view.lines[l] + 1], view.lines[l + 1] * B.size + POOL.base
    local kind, amount, d, pieces = view.lines[l + 3], view.lines[l + 2], values_of(p.s[i + B.details]), ''
    if kind == KIND.rollover then -- a balance may have several such lines
      local seq = d[D.seq]
      before[p] = before[p] or values_of_pool(view.hold[p])
      pieces_of[seq] = pieces_of[seq] or pieces_between(before[p][i + B.rollovers], p.s[i + B.rollovers])
      pieces = take_pieces(pieces_of[seq], amount)
    end
    lines[#lines + 1] = { view.feature, p.owner.entity, d[D.seq], p.s[i + B.resets], kind, amount, d[D.plan], d[D.id], pieces }
  end
end

-- The candidates of a check as a lock keeps them: without the needs.
local function candidates_of(list, from, to)
  local kept = { list[from] }
  for i = from + 2, to, 3 do kept[#kept + 1], kept[#kept + 2] = list[i], list[i + 2] end
  return kept
end

-- The candidates for an amount, as choose has them.
local function candidates_for(kept, amount)
  local list = { kept[1], amount }
  for i = 2, #kept, 2 do
    list[#list + 1], list[#list + 2], list[#list + 3] = kept[i], convert(amount, kept[i + 1]), kept[i + 1]
  end
  return list
end

-- What stands against a lock that a check asks for: an error code, nil if nothing does.
local function refusal_of_lock(c, id, expires, problem)
  if problem ~= '' then return problem end
  if expires <= now then return 'invalid_request: lock.expires_at has passed already' end
  if expires > now + LIMIT.lock_ms then return 'invalid_request: lock.expires_at is more than 24 hours ahead' end
  if lock_of(c, id) then return 'conflict: there is such a lock_id already, held or settled within 24 hours' end
  if c.v[C.locks] ~= '' and c.v[C.locks][LOCKS.count] >= LIMIT.locks then return 'too_many_locks' end
end

-- Makes a lock of what a choice took.
local function make_lock(c, choice, id, entity, amount, candidates, expires, behaviour, properties, precision)
  local lines, own = {}, 0
  for _, view in ipairs(choice) do
    add_lines(view, lines)
    if view == choice.own then own = view.amount end
  end
  local feature = candidates[1]
  put_lock(c, id, {
    LIMIT.format, c.v[C.life], STATE.held, feature, entity, amount, expires, behaviour, properties, candidates, own, lines, 0, '', '', '', precision,
  })
  list_lock(c, { id, expires, feature, entity, amount })
end

-- The pool that a line was taken from, false if its owner is gone.
local function pool_of_line(c, line)
  local owner = line[LINE.entity] == '' and c or entity_of(c, line[LINE.entity])
  return owner and pool_of(owner, line[LINE.feature])
end

-- The place of the balance that a line was taken from, and its pool; nil if it is gone, or in another period. An entity that
-- cannot be read is as good as gone: it must not stop its customer. places: of the balances of a pool, by their age.
local function balance_of_line(c, line, places)
  local is_read, p = pcall(pool_of_line, c, line)
  if not is_read and not is_unreadable(p) then error(p, 0) end
  if not is_read or not p then return nil end
  if not places[p] then
    local by_age = {}
    for i = POOL.base, #p.s - 1, B.size do by_age[values_of(p.s[i + B.details])[D.seq]] = i end
    places[p] = by_age
  end
  local i = places[p][line[LINE.seq]]
  if i and p.s[i + B.resets] == line[LINE.resets] then return i, p end
end

-- Gives so much of a line back, and holds the rest no longer. Returns how much was forfeited. The pools are packed later.
local function settle_line(c, line, amount, places)
  local i, p = balance_of_line(c, line, places)
  if not i then return amount end
  p.touched = true
  local s, left = p.s, amount
  local function back(field, sign, there_is)
    local given = min(left, there_is)
    s[i + field], left = s[i + field] + sign * given, left - given
  end
  s[i + B.held] = max(0, s[i + B.held] - line[LINE.amount])
  local kind, forfeited = line[LINE.kind], 0
  if kind == KIND.rollover then
    -- The last that was taken from gets it back first.
    local pieces, short = line[LINE.pieces], 0
    for n = #pieces - 1, 1, -2 do
      local wanted = min(left, pieces[n + 1])
      if pieces[n] > 0 and pieces[n] <= now then
        forfeited = forfeited + wanted
      else
        local text, given = give_back_to(s[i + B.rollovers], pieces[n], wanted)
        s[i + B.rollovers], s[i + B.from_rollovers] = text, s[i + B.from_rollovers] - given
        short = short + wanted - given
      end
      left = left - wanted
    end
    left = short
  elseif kind == KIND.prepaid then
    back(B.prepaid_left, 1, s[i + B.prepaid] - s[i + B.prepaid_left])
  elseif kind == KIND.included then
    back(B.included_left, 1, s[i + B.included] - s[i + B.included_left])
  end
  -- Something else may have been given back to where it came from.
  back(B.over, -1, s[i + B.over])
  if not is_unlimited(s, i) then
    back(B.prepaid_left, 1, s[i + B.prepaid] - s[i + B.prepaid_left])
    back(B.included_left, 1, s[i + B.included] - s[i + B.included_left])
  end
  if left > 0 and s[i + B.rollovers] ~= '' then left = left - give_back_rollovers({ { s, i } }, left, nil, function() end) end
  return forfeited + left
end

-- Gives back what of a lock's lines is not kept, the last first, and holds them no longer. kept: how much of each pool stays
-- used. Returns what stays of each line, and a list: each pool, and how much of it was forfeited.
local function settle_lines(c, lines, kept)
  local taken, stays, forfeited, order, places = {}, {}, {}, {}, {}
  for _, line in ipairs(lines) do taken[line[LINE.feature]] = (taken[line[LINE.feature]] or 0) + line[LINE.amount] end
  for n = #lines, 1, -1 do
    local line = lines[n]
    local feature = line[LINE.feature]
    local back = max(0, min(line[LINE.amount], taken[feature] - (kept[feature] or 0)))
    taken[feature] = taken[feature] - back
    stays[n] = line[LINE.amount] - back
    local lost = settle_line(c, line, back, places)
    if lost > 0 then
      if not forfeited[feature] then table.insert(order, 1, feature) end
      forfeited[feature] = (forfeited[feature] or 0) + lost
    end
  end
  for p in pairs(places) do
    if p.touched then
      p.touched = false
      pool_changed(p)
    end
  end
  local list = {}
  for _, feature in ipairs(order) do list[#list + 1], list[#list + 2] = feature, forfeited[feature] end
  return stays, list
end

-- A copy of a lock, settled at a time.
local function settled(lock, state, time)
  local copy = { unpack(lock, 1, LOCK.size) }
  copy[LOCK.state], copy[LOCK.settled] = state, time
  return copy
end

-- Does something as of an earlier time, with pools of any feature.
local function at_time(time, f)
  local later = now
  now, any_feature = time, true
  local ok, problem = pcall(f)
  now, any_feature = later, false
  if not ok then error(problem, 0) end
end

-- Releases the locks that have expired, in the order of their expiries, each at its own time: what else is due before it is
-- applied before it. It may have to be sent again.
local function expire_locks(c)
  local expired, list = {}, held_locks(c)
  for i = 1, #list - 1, HELD.size do
    if list[i + HELD.expires] <= now then expired[#expired + 1] = { list[i + HELD.expires], list[i + HELD.id] } end
  end
  table.sort(expired, function(x, y)
    if x[1] ~= y[1] then return x[1] < y[1] end
    return x[2] < y[2]
  end)
  local gone, most = {}, resumable and LIMIT.visits or math.huge
  for n = 1, min(#expired, most) do
    local time, id = expired[n][1], expired[n][2]
    local lock = lock_of(c, id)
    if lock then
      at_time(time, function() settle_lines(c, lock[LOCK.lines], NOTHING) end)
      put_lock(c, id, settled(lock, STATE.expired, time))
    end
    gone[id] = true
  end
  unlist_locks(c, gone)
  if #expired > most then error(NEEDS_MORE) end
end

-- Applies what is due of the customer's locks. Entities of one that is being deleted must not be written again.
local function expire_if_due(c)
  if c.v[C.locks] == '' or c.v[C.locks][LOCKS.due] > now or is_being_deleted(c) then return end
  expire_locks(c)
end

-- A lock as the outcome of a command tells of it: {id, feature, entity, value, expires, state, what was confirmed, properties,
-- pairs of a pool and what of it was forfeited}.
local function extra_of_lock(id, lock, confirmed, properties, forfeited)
  return {
    id, lock[LOCK.feature], lock[LOCK.entity], lock[LOCK.value], lock[LOCK.expires], lock[LOCK.state], confirmed, properties, forfeited, 'lock',
  }
end

-- Has all locks of a customer removed, but for those that were settled before: they end by themselves.
local function remove_locks(c)
  local list = held_locks(c)
  for i = 1, #list - 1, HELD.size do drop_key(c, lock_key(c, list[i + HELD.id])) end
  for id in pairs(c.locks or NOTHING) do drop_key(c, lock_key(c, id)) end
  drop_key(c, c.key .. ':l')
end
