-- uses: layout msgpack struct
-- A call of a script: its steps, one after the other, and the writing of what they changed.
--
-- A step is what is done for one record. The steps of a call are of any customers (in a Cluster: of
-- one), those of one customer one behind the other.
--
-- KEYS: of each customer its key and the keys that its steps name (STEP.key, ENTITY.key, RARE.answer_key).
--   Other keys of a customer are made from its key, whose hash tag they share. Last the log of the source.
-- ARGV[1]: a packed list: HEAD, and for each step STEP, its candidates, and ENTITY and RARE if it has any.
--
-- Returns a list, for each step:
--   the outcome (of a check formats.quick, check, pair_head or lock_head, of a command lib/command.lua)    it was decided now
--   {outcome}                                    it was decided before, and this is the outcome of that time
--   {}                                           it was decided, committed and forgotten: the caller has lost the partition
--   RETRY.alone                                  nothing was done: another step of the customer failed, send it in a call of its own
--   RETRY.rows                                   nothing was done: the catalogue's rows are needed
--   RETRY.more                                   it is not decided: there was more to do before than one step does
--   {error}, a list in a list                    the step failed; nothing was done but to keep that in mind
--
-- Invariant: nothing is written before all steps are decided, and then everything that a customer's
-- steps have changed, with what proves that they were taken, in one command: whatever fails, or is
-- lost on the way, a step is in effect as a whole or not at all, and is not taken twice.
local NOTHING = {}
local call, min, max, floor, match = redis.call, math.min, math.max, math.floor, string.match
local tonumber, KEYS = tonumber, KEYS

local a = values_of(ARGV[1]) -- HEAD, STEP, ..., and ENTITY and RARE of steps that have none
local now, source, committed, rows = a[HEAD.now], a[HEAD.source], a[HEAD.committed], a[HEAD.rows]
local no_entity = #a
local none_rare = no_entity + ENTITY.size
a[no_entity + ENTITY.key], a[no_entity + ENTITY.id] = 0, ''
for i = 1, RARE.size do a[none_rare + i] = '' end
a[none_rare + RARE.answer_key], a[none_rare + RARE.deadline] = 0, 0
local at, entity_at, rare_at -- the places before the STEP, the ENTITY and the RARE at hand
-- Whether the step at hand may still ask to be sent again (NEEDS_MORE): it has changed nothing yet but what is
-- worth keeping.
local resumable
-- Whether pools of any feature may be settled, and not only those of the features that the steps are about.
local any_feature = false

-- What a step raises that needs rows; or that must be sent again, after what is worth keeping was done for it
-- and nothing else. Anything else that is raised is a failure.
local NEEDS_ROWS, NEEDS_MORE = {}, {}
-- Of a customer that changes more keys than there is room for, beside the others or at all.
local TOO_MANY = { err = 'more keys are changed than one command can write' }

local stored = call('MGET', unpack(KEYS, 1, a[HEAD.data])) -- what the keys hold

-- An owner of balances, a customer or an entity, as the steps of the call see it:
--   key, entity ('' for the customer), v: the values of C or E, false where there is nothing
--   pools: by feature, those that were looked at: {s: values of POOL, false until they are needed, text: packed, as
--     it was last when a step ended, place: of the text in v, owner, feature, touched: changed since}; false if none
--   changed: whether v, or a pool, is to be written; emptied: whether a pool has become empty; customer: of an entity, its customer
-- and a customer besides
--   sums: what its entities share (SHARED), by feature, as far as it is unpacked
--   owners, chunks: its entities, by id, and chunks of their directory, that were looked at; ledger, new, first_new: ledger.lua
--   profile: command.lua; locks, held, held_changed: locks.lua; answers: texts of idempotency keys that this call has taken, by key
--   failed: what a step of it raised; more: a step of it is to be sent again; replayed: a step of it was decided before
--   writes: further keys to be written, key and text in turn; expires: keys to be given an end, key and ms in turn
--   drops: keys to be removed
local customers = {} -- by place in KEYS

-- The values of what a key holds that must be of a format; false where there is nothing.
local function readable(key, text)
  -- To MGET a key of another type is nothing, to GET it is an error.
  if not text then text = call('GET', key) end
  if not text or text == '' then return false end -- '': what was removed, until its key is
  local v = values_of(text)
  if type(v) ~= 'table' or v[C.format] ~= LIMIT.format then error('user_script:0: what a key holds was not written by this version of Tollgate') end
  return v
end

local function open_customer(place)
  local key = KEYS[place]
  local v = readable(key, stored[place])
  return { key = key, entity = '', v = v, pools = {}, changed = false, ledger = nil, new = nil }
end

-- The entity of a customer, false if there is none. place: of its key in KEYS, nil if it is not there.
local function entity_of(c, id, place)
  c.owners = c.owners or {}
  local owner = c.owners[id]
  if owner == nil then
    local key = place and KEYS[place] or c.key .. ':e:' .. id
    local v = readable(key, place and stored[place])
    owner = v and v[E.life] == c.v[C.life] and { key = key, entity = id, v = v, pools = {}, changed = false, customer = c }
    c.owners[id] = owner
  end
  return owner
end

local function exists(c) return c.v and c.v[C.life] ~= '' end

local function format_of_pool(text) return string.byte(text, 1) == formats.small.mark and formats.small or formats.large end

-- The place in an owner's values of the pool that it holds of a feature, nil if it holds none.
local function place_of_pool(v, feature)
  for i = C.pools, #v, 2 do
    if v[i] == feature then return i + 1 end
  end
end

-- The pool of a feature that an owner holds itself, false if it holds none. What is due of it is applied.
local function pool_of(owner, feature)
  local p = owner.pools[feature]
  if p == nil then
    local place = place_of_pool(owner.v, feature)
    p = place and { s = false, text = owner.v[place], place = place, owner = owner, touched = false, feature = feature } or false
    owner.pools[feature] = p
  end
  if p then
    local s = p.s
    if not s then
      s = values_of_pool(p.text)
      p.s = s
    end
    if s[POOL.due] > 0 and s[POOL.due] <= now then settle(p, feature) end
  end
  return p
end

-- Ends a change of a pool: packs it.
local function pool_changed(p)
  local text, owner = text_of_pool(p.s), p.owner
  if owner.customer then sum_up(owner, p.feature, values_of_pool(p.text), p.s) end
  p.text, owner.changed = text, true
  owner.v[p.place] = text
  if text == '' then owner.emptied = true end
end

-- Takes a change of a pool back that has not ended.
local function reopen(p) p.s = values_of_pool(p.text) end

local function copy_of(value)
  if type(value) ~= 'table' then return value end
  local copy = {}
  for i = 1, #value do copy[i] = copy_of(value[i]) end
  return copy
end

-- The text of an owner, without the pools that are empty by now.
local function text_of_owner(owner)
  local v = owner.v
  if owner.sums then pack_sums(owner) end
  if not owner.emptied then return text_of(v) end
  local kept = { unpack(v, 1, C.pools - 1) }
  for i = C.pools, #v, 2 do
    if v[i + 1] ~= '' then kept[#kept + 1], kept[#kept + 2] = v[i], v[i + 1] end
  end
  return text_of(kept)
end

-- Has keys written, given an end, or removed behind the steps.
local function put_key(c, key, text)
  c.writes = c.writes or {}
  c.writes[#c.writes + 1], c.writes[#c.writes + 2] = key, text
end
local function expire_key(c, key, ms)
  c.expires = c.expires or {}
  c.expires[#c.expires + 1], c.expires[#c.expires + 2] = key, ms
end
-- Takes back that a key is given an end.
local function keep_key(c, key)
  local kept = {}
  for i = 1, #(c.expires or NOTHING), 2 do
    if c.expires[i] ~= key then kept[#kept + 1], kept[#kept + 2] = c.expires[i], c.expires[i + 1] end
  end
  c.expires = kept
end
local function drop_key(c, key)
  c.drops = c.drops or {}
  c.drops[#c.drops + 1] = key
end

-- How long what is left of a customer that does not exist is kept.
local GHOST = { ms = 86400000 }

-- Collects what is to be written of a customer.
local function collect(c, writes)
  if c.held_changed then write_held_locks(c) end
  local n = #writes
  if c.writes then
    for i = 1, #c.writes, 2 do
      writes[n + 1], writes[n + 2] = c.writes[i], c.writes[i + 1]
      n = n + 2
    end
  end
  for _, owner in pairs(c.owners or NOTHING) do -- behind c.writes: it may have been removed and made again
    if owner and owner.changed then
      writes[n + 1], writes[n + 2] = owner.key, text_of_owner(owner)
      n = n + 2
    end
  end
  if n > LIMIT.writes then error(TOO_MANY) end
  if not c.changed then return end
  if c.new then keep_entries(c) end
  writes[n + 1], writes[n + 2] = c.key, text_of_owner(c)
  if c.new then log_entries(c) end
end

-- Removes keys, but those that were written with something.
local function remove(keys, writes)
  local written, some = {}, {}
  for i = 1, #writes, 2 do written[writes[i]] = writes[i + 1] ~= '' end
  for i, key in ipairs(keys) do
    if not written[key] then some[#some + 1] = key end
    if #some == LIMIT.keys or (i == #keys and #some > 0) then
      call('UNLINK', unpack(some))
      some = {}
    end
  end
end

-- Steps of the call: the number of the one at hand, the place behind it, the customers' places by step, and the
-- replies; and customers in the order in which they were opened.
local step, behind, places, replies, opened = 1, HEAD.size, {}, {}, {}

-- The places before the ENTITY and the RARE of the step behind a place, and the place behind the step.
local function places_in_step(place)
  local asked, next_place, entity, rare = a[place + STEP.asked], place + STEP.size + a[place + STEP.needs], no_entity, none_rare
  if asked % ASKED.rare >= ASKED.entity then entity, next_place = next_place, next_place + ENTITY.size end
  if asked >= ASKED.rare then rare, next_place = next_place, next_place + RARE.size end
  return entity, rare, next_place
end

-- Takes the steps from the one at hand on, each by take(c), which returns the reply to it.
local function take_rest(take)
  while step <= a[HEAD.steps] do
    at = behind
    local place = a[at + STEP.key]
    entity_at, rare_at, behind = places_in_step(at)
    places[step] = place
    local c = customers[place]
    if not c then
      c = open_customer(place)
      customers[place] = c
      opened[#opened + 1] = c
    end
    if c.more then
      replies[step] = RETRY.more
    elseif not c.failed then
      resumable = true
      replies[step] = take(c)
    end
    step = step + 1
  end
end

-- Takes all steps, and writes.
local function take_steps(take)
  local n = a[HEAD.steps]
  -- One pcall is for many steps: if one raises something, the rest is taken by another.
  while step <= n do
    local ok, problem = pcall(take_rest, take)
    if not ok then
      local c = customers[places[step]] or {}
      customers[places[step]] = c
      if problem == NEEDS_MORE then replies[step], c.more = RETRY.more, true else c.failed = problem end
      step = step + 1
    end
  end
  local writes = {}
  for k = 1, #opened do
    local c = opened[k]
    if not c.failed and (c.changed or c.writes or c.owners) then
      local before = #writes
      local ok, problem = pcall(collect, c, writes)
      if not ok then
        c.failed = problem
        for j = #writes, before + 1, -1 do writes[j] = nil end
      end
    end
  end
  write_log()
  if #writes > 0 then call('MSET', unpack(writes)) end
  for k = 1, #opened do
    local c = opened[k]
    if not c.failed then
      if c.expires then
        for j = 1, #c.expires, 2 do call('PEXPIRE', c.expires[j], c.expires[j + 1]) end
      end
      if (c.changed or c.replayed) and c.v and not exists(c) then call('PEXPIRE', c.key, GHOST.ms) end
      if c.drops then remove(c.drops, writes) end
    end
  end
  trim_log()
  for k = 1, n do
    local c = customers[places[k]]
    local failed = c.failed
    if failed == NEEDS_ROWS then
      replies[k] = RETRY.rows
    elseif failed then
      local alone = (n == 1 or failed ~= TOO_MANY) and (k == 1 or places[k - 1] ~= places[k]) and (k == n or places[k + 1] ~= places[k])
      if alone then
        replies[k] = { { type(failed) == 'table' and failed.err or tostring(failed) } }
      else
        replies[k] = RETRY.alone
      end
    end
  end
  return replies
end
