-- uses: layout msgpack struct call command locks
-- lock.finalize: spends what a lock holds, or gives it back (semantics: Reservations).
-- args: the lock's id; confirm or release; the value to confirm, its digits ('' for what is held) and its exponent; properties, ''
--   for those of the check; the id that the usage event would bear
-- Outcome: one event if something was confirmed, its lines at the end of it; extra see extra_of_lock.
-- Invariant: the lock is settled once. A repeat changes nothing.

-- The event of what was confirmed. stays: of each line of the lock; choice: what was drawn in addition, nil for nothing.
local function event_of_lock(c, lock, entity, value, stays, choice, snapshots)
  local amounts, lines, features = {}, {}, {}
  local function add(feature, owner, plan, id, kind, amount)
    if amount == 0 then return end
    if not amounts[feature] then features[#features + 1] = feature end
    amounts[feature] = (amounts[feature] or 0) + amount
    for _, field in ipairs({ feature, owner, plan, id, kind, amount }) do lines[#lines + 1] = field end
  end
  for n, line in ipairs(lock[LOCK.lines]) do
    add(line[LINE.feature], line[LINE.entity], line[LINE.plan], line[LINE.id], line[LINE.kind], stays[n])
  end
  for _, view in ipairs(choice or NOTHING) do
    for l = 1, #view.lines, 4 do
      local p, i = view.parts[view.lines[l] + 1], view.lines[l + 1] * B.size + POOL.base
      local d = values_of(p.s[i + B.details])
      add(view.feature, p.owner.entity, d[D.plan], d[D.id], view.lines[l + 3], view.lines[l + 2])
    end
  end
  table.sort(features, function(x, y) return x ~= y and x == lock[LOCK.feature] end) -- the feature's own pool first
  local draws = {}
  for _, feature in ipairs(features) do
    local snapshot = snapshot_of(view_of(c, feature, entity))
    snapshots[#snapshots + 1] = snapshot
    for _, field in ipairs({ amounts[feature], snapshot, NOTHING }) do draws[#draws + 1] = field end
  end
  return { lock[LOCK.feature], value, '', draws, lines }
end

-- How much of each pool stays used if a value is confirmed that is no more than what is held; false if it does not fit.
local function kept_of(lock, value)
  local candidates, own, kept = lock[LOCK.candidates], lock[LOCK.own], {}
  kept[candidates[1]] = min(own, value)
  for i = 2, #candidates, 2 do
    local rest = value - kept[candidates[1]]
    kept[candidates[i]] = rest > 0 and convert(rest, candidates[i + 1]) or 0
  end
  return kept
end

-- Draws what is confirmed beyond what is held. Returns the choice, or nil and an error code.
local function draw_more(c, lock, entity, amount)
  local list = candidates_for(lock[LOCK.candidates], amount)
  local choice = choose(c, entity, list, 1, #list)
  local refusal = track(choice, lock[LOCK.behaviour])
  if refusal ~= '' then return nil, refusal end
  return choice
end

-- A decimal in units of 10^-precision; or nil and an error code.
local function units_of(digits, exponent, precision)
  local shift = exponent + precision
  if digits == '0' then return 0 end
  if shift < 0 then return nil, 'invalid_request: override_value has more decimals than the feature, whose precision is ' .. precision end
  if #digits + shift > 16 then return nil, 'amount_out_of_range' end
  local units = tonumber(digits .. string.rep('0', shift))
  if units > LIMIT.max then return nil, 'amount_out_of_range' end
  return units
end

commands['lock.finalize'] = function(c, id, action, digits, exponent, properties, event_id)
  local lock = lock_of(c, id)
  if not lock then return nil, 'lock_not_found' end
  local value, problem = lock[LOCK.value], nil
  if action == 'release' then
    value = 0
  elseif digits ~= '' then
    value, problem = units_of(digits, exponent, lock[LOCK.precision])
    if not value then return nil, problem end
  end
  local question = action .. ' ' .. string.format('%.0f', value)
  if lock[LOCK.state] ~= STATE.held then
    if lock[LOCK.state] == STATE.expired then return nil, 'lock_expired' end
    if lock[LOCK.question] ~= question then return nil, 'lock_settled' end
    return REPEATED, lock[LOCK.memo], lock[LOCK.outcome]
  end
  resumable = true -- until something is applied
  local entity = lock[LOCK.entity] ~= '' and entity_of(c, lock[LOCK.entity]) or nil
  local choice, refusal
  if value > lock[LOCK.value] then
    if lock[LOCK.entity] ~= '' and not entity then return nil, 'entity_not_found' end
    choice, refusal = draw_more(c, lock, entity, value - lock[LOCK.value])
    if not choice then return nil, refusal end
  end
  resumable = false
  local kept, all = kept_of(lock, min(value, lock[LOCK.value])), value >= lock[LOCK.value]
  if all then
    for _, line in ipairs(lock[LOCK.lines]) do kept[line[LINE.feature]] = math.huge end
  end
  local stays, forfeited = settle_lines(c, lock[LOCK.lines], kept)
  local state = action == 'release' and STATE.released or STATE.confirmed
  local done, snapshots, seen = settled(lock, state, now), {}, {}
  local event = event_of_lock(c, lock, entity, value, stays, choice, snapshots)
  for _, snapshot in ipairs(snapshots) do seen[snapshot[SNAPSHOT.feature]] = true end
  for _, line in ipairs(lock[LOCK.lines]) do
    local feature = line[LINE.feature]
    if not seen[feature] then
      seen[feature], snapshots[#snapshots + 1] = true, snapshot_of(view_of(c, feature, entity))
    end
  end
  if properties == '' then properties = lock[LOCK.properties] end
  local extra = extra_of_lock(id, done, value, properties, forfeited)
  local outcome = outcome_of(snapshots, #event[4] > 0 and { event } or NOTHING, extra)
  done[LOCK.question], done[LOCK.memo], done[LOCK.outcome] = question, event_id, outcome
  done[LOCK.lines], done[LOCK.candidates], done[LOCK.properties] = NOTHING, NOTHING, '' -- nobody needs them any more
  put_lock(c, id, done)
  unlist_locks(c, { [id] = true })
  return snapshots, #event[4] > 0 and { event } or NOTHING, extra, true
end
