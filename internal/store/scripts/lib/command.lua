-- uses: layout msgpack call ledger outcome pool deduct choose holding plans job locks
-- What commands share: their outcome, and a customer's state to work on.
--
-- Outcome: mark, code, now, snapshots, events, extra; code is '' if the command was carried out,
-- <code> or <code>: <message> if not. An event: {feature asked, its units asked, code, draws}; draws:
-- amount, snapshot and lines of each pool that it was taken from, in turn.

-- By type, what carries a command out: execute(c, ...) with the values of RARE.args, for a customer
-- that exists (but for customer.put). It returns the snapshots, events and extra of its outcome, and
-- whether anything was changed; or nil, an error code and snapshots for the answer, and then nothing
-- is changed, whatever it has done before.
local commands = {}

-- What a command returns if its answer is one that was given before; and then the memo and the outcome of that.
local REPEATED = {}

local function outcome_of(snapshots, events, extra) return text_of({ MARK.decided, '', now, snapshots, events, extra }) end
local function failure_of(code, snapshots, events) return text_of({ MARK.decided, code, now, snapshots or NOTHING, events or NOTHING, NOTHING }) end

local function snapshots_of(views)
  local list = {}
  for i, view in ipairs(views) do list[i] = snapshot_of(view) end
  return list
end

-- The event of an outcome: what became of an amount of a feature. refusal is the code if nothing was taken, else ''. The
-- snapshots of the views go to a list, too.
local function event_of(candidates, refusal, choice, snapshots)
  local draws = {}
  for _, view in ipairs(choice) do
    local snapshot = snapshot_of(view)
    snapshots[#snapshots + 1] = snapshot
    for _, value in ipairs({ view.amount, snapshot, view.lines }) do draws[#draws + 1] = value end
  end
  return { candidates[1], candidates[2], refusal, draws }
end

-- Takes what was chosen for usage that nobody asks for, or what is there. Returns '', or the code of the refusal.
local function track(choice, behaviour)
  if not choice.allowed then
    if behaviour == 'reject' or choice.code == 'not_entitled' or choice.code == 'amount_out_of_range' then return choice.code end
    if not choose_anyway(choice, behaviour == 'allow') then return 'amount_out_of_range' end
  end
  return apply(choice) and '' or 'amount_out_of_range'
end

-- Every view that has a balance in it, as the customer or an entity sees it.
local function all_views(c, entity)
  local features, views = {}, {}
  local function collect_features(v)
    for i = C.pools, #v, 2 do
      if not is_ledger(v[i]) then features[#features + 1] = v[i] end
    end
  end
  collect_features(c.v)
  if entity then
    collect_features(entity.v)
  else
    for _, feature in ipairs(features_shared(c)) do features[#features + 1] = feature end
  end
  local seen = {}
  for _, feature in ipairs(features) do
    if not seen[feature] then
      seen[feature] = true
      local view = view_of(c, feature, entity)
      if not is_empty(view) then views[#views + 1] = view end
    end
  end
  return views
end

-- The owner that the command at hand names: the customer, or an entity; nil where there is no such.
local function owner_asked(c)
  local id = a[entity_at + ENTITY.id]
  if id == '' then return c end
  return entity_of(c, id, a[entity_at + ENTITY.key]) or nil
end

-- The values of PROFILE.
local function profile_of(c)
  if not c.profile then
    local text = call('GET', c.key .. ':p')
    local profile = text and text ~= '' and values_of(text)
    c.profile = profile and profile[PROFILE.life] == c.v[C.life] and profile or { c.v[C.life], '', '', '' }
  end
  return c.profile
end

-- Puts an id into the directory of entities, '' to take it out.
local function put_id(c, number, id)
  local place = number % DIRECTORY.size
  local chunk = (number - place) / DIRECTORY.size
  local ids = { unpack(ids_of_chunk(c, chunk)) }
  for i = #ids + 1, place + 1 do ids[i] = '' end
  ids[place + 2] = id
  c.chunks[chunk] = ids
  put_key(c, c.key .. ':d:' .. chunk, text_of(ids))
end

-- The state of a customer before a command, and the way back to it.
local function checkpoint(c)
  local undo_sums = checkpoint_of_sums(c)
  local v, changed, owners = copy_of(c.v), c.changed, {}
  for id, owner in pairs(c.owners or {}) do owners[id] = owner and { owner, { unpack(owner.v) }, owner.changed } end
  local writes, drops, expires = #(c.writes or {}), #(c.drops or {}), #(c.expires or {})
  local profile = c.profile and { unpack(c.profile) }
  local chunks, locks, held, list_changed = {}, {}, c.held, c.held_changed
  for n, text in pairs(c.chunks or {}) do chunks[n] = text end
  for id, lock in pairs(c.locks or {}) do locks[id] = lock end
  return function()
    c.v, c.changed, c.pools, c.chunks, c.profile, c.ledger = v, changed, {}, chunks, profile, nil
    c.locks, c.held, c.held_changed = locks, held, list_changed
    undo_sums()
    for id in pairs(c.owners or {}) do
      local before = owners[id]
      c.owners[id] = before and before[1] -- nil: it is read again
      if before then before[1].v, before[1].changed, before[1].pools = before[2], before[3], {} end
    end
    for list, n in pairs({ [c.writes or {}] = writes, [c.drops or {}] = drops, [c.expires or {}] = expires }) do
      for i = #list, n + 1, -1 do list[i] = nil end
    end
  end
end

-- Ends the step whose job is done. What the job has changed is in effect, whether all of it can be shown or not.
local function end_job(c)
  resumable = false
  local is_read, snapshots = pcall(function() return exists(c) and snapshots_of(all_views(c)) or NOTHING end)
  if not is_read and not is_unreadable(snapshots) then error(snapshots, 0) end
  if not is_read then snapshots = NOTHING end
  c.v[C.job] = ''
  return finish(c, outcome_of(snapshots, NOTHING, NOTHING), true)
end

-- Carries the command at hand out, and returns the reply to it.
local function take_command(c)
  local seen, refusal = begin(c)
  if seen then return seen end
  -- A refusal must not depend on what else can be read of the customer. What has a job was begun before.
  if refusal and not is_job_of_record(c) then return finish(c, failure_of(refusal), false) end
  local kind = a[rare_at + RARE.kind]
  if exists(c) then
    expire_if_due(c)
    run_job(c)
  end
  for _, feature in ipairs(exists(c) and features_shared(c) or NOTHING) do
    local shared = shared_of(c, feature)
    if shared then walk_if_due(c, shared) end
  end
  if is_job_of_record(c) then return end_job(c) end
  if kind ~= 'customer.put' and not exists(c) then return finish(c, failure_of('customer_not_found'), false) end
  local undo = checkpoint(c)
  resumable = false
  local snapshots, events, extra, changed = commands[kind](c, unpack(values_of(a[rare_at + RARE.args])))
  if snapshots == REPEATED then return keep(c, struct_pack(formats.repeated, MARK.repeated, #events, events, #extra, extra)) end
  if not snapshots then
    local code, shown, refused = events, extra, changed
    undo()
    return finish(c, failure_of(code, shown, refused), false)
  end
  return finish(c, outcome_of(snapshots, events, extra), changed)
end
