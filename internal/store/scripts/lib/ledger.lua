-- uses: layout msgpack struct call
-- The ledger: outcomes of records whose offsets are not committed yet, so that a record processed again
-- returns what it returned the first time, however late.
--
-- Of each source (a topic partition within a lifetime of the consumer group, so that what is committed of it
-- only grows) a customer's value has the last record that was decided (L): it is written with
-- what the record changed. Outcomes are in the log of the source, a hash:
--   floor              offset below which all is committed and forgotten
--   writes             how often it was written
--   <write>:<lowest>:<highest>  formats.entry of the records that one call decided, one after the other, and the
--                      lowest and highest of their offsets
-- The log is written before the customers' values. Without a log (in a Cluster, where it would lie on another
-- node) floor and entries are in the customer's value.
--
-- Invariant: of every record that was kept, is not above the customer's last and not below the floor, there is
-- an entry, and the one that was written last is the outcome. So a record is new, and may be decided, only
-- above the last; an entry above it is of a call whose writes did not come to pass, and counts for nothing,
-- also when the record has been decided in another call since.
local STALE = {}

local log = a[HEAD.log] > 0 and KEYS[a[HEAD.log]]
local log_floor, log_writes
local floor_rose = false
if log then
  local head = call('HMGET', log, 'floor', 'writes')
  log_floor, log_writes = tonumber(head[1] or 0), tonumber(head[2] or 0)
end
local log_index -- of all entries of the log, once they were needed
local new_entries, lowest, highest = {}, math.huge, -1 -- for the log

-- Finds the ledger of the call's source among a customer's: c.ledger is the place before it, false if
-- there is none.
local function open_ledger(c)
  if c.ledger ~= nil then return end
  c.ledger = false
  local l = c.v and c.v[C.ledgers] or NOTHING
  for base = 0, #l - L.size, L.size do
    if l[base + L.source] == source then c.ledger = base end
  end
end

-- Adds the outcomes of a text of entries to an index by offset.
local function index_entries(index, entries)
  local at_byte, offset, timestamp, outcome = 1, nil, nil, nil
  while at_byte <= #entries do
    offset, timestamp, outcome, at_byte = struct_unpack(formats.entry, entries, at_byte)
    index[offset] = { timestamp, outcome }
  end
end

-- The lowest and the highest offset of the records of this call.
local function offsets_of_call()
  local place, from, to = HEAD.size, math.huge, -1
  for _ = 1, a[HEAD.steps] do
    local offset = a[place + STEP.offset]
    from, to, place = min(from, offset), max(to, offset), place + STEP.size + a[place + STEP.needs]
  end
  return from, to
end

-- The outcomes that are kept for a customer, by offset: {timestamp, outcome}. Those of this call are not
-- among them: no record is in it twice.
local function index_of(c)
  if not log then
    local index = {}
    index_entries(index, c.v[C.ledgers][c.ledger + L.entries])
    return index
  end
  if not log_index then
    log_index = {}
    local from, to = offsets_of_call()
    local written = {}
    for _, field in ipairs(call('HKEYS', log)) do
      local write, lowest_offset, highest_offset = match(field, '^(%d+):(%d+):(%d+)$')
      if write and tonumber(lowest_offset) <= to and tonumber(highest_offset) >= from then
        written[#written + 1] = { tonumber(write), field }
      end
    end
    table.sort(written, function(x, y) return x[1] < y[1] end)
    for _, one in ipairs(written) do index_entries(log_index, call('HGET', log, one[2])) end
  end
  return log_index
end

-- What the ledger says of the record at hand: nil if it is new, STALE if it is committed, else {outcome}.
local function recall(c)
  open_ledger(c)
  local base, l, offset = c.ledger, c.v and c.v[C.ledgers], a[at + STEP.offset]
  if offset < (log_floor or base and l[base + L.floor] or 0) then return STALE end
  if not base or offset > l[base + L.last] then return nil end
  local seen = index_of(c)[offset]
  if not seen then error('the ledger lacks the outcome of a record that was decided') end
  -- An offset that was given to another record since (a log that was truncated) is new.
  if seen[1] == a[at + STEP.timestamp] then return { seen[2] } end
end

-- The entries of a text from an offset on.
local function entries_from(entries, least)
  local at_byte, kept = 1, {}
  while at_byte <= #entries do
    local offset, _, _, next_byte = struct_unpack(formats.entry, entries, at_byte)
    if offset >= least then kept[#kept + 1] = string.sub(entries, at_byte, next_byte - 1) end
    at_byte = next_byte
  end
  return table.concat(kept)
end

-- Keeps the outcome of the record at hand.
local function remember(c, outcome)
  open_ledger(c)
  if not c.v then c.v = { LIMIT.format, '', 0, {}, {}, '', {}, {} } end
  local l, base, offset = c.v[C.ledgers], c.ledger, a[at + STEP.offset]
  if not base then
    base = #l
    c.ledger = base
    l[base + L.source], l[base + L.last], l[base + L.floor], l[base + L.entries] = source, 0, 0, ''
  end
  local entry = struct_pack(formats.entry, offset, a[at + STEP.timestamp], #outcome, outcome)
  local new = c.new
  if new then new[#new + 1] = entry else c.new = { entry } end
  c.first_new = min(c.first_new or offset, offset)
  if offset > l[base + L.last] then l[base + L.last] = offset end
  c.changed = true
end

-- Puts a customer's new entries where they belong: into its values, before these are packed, or into the log,
-- once they are.
keep_entries = function(c)
  if log then return end
  local l, base = c.v[C.ledgers], c.ledger
  local entries = l[base + L.entries]
  if committed > l[base + L.floor] then
    l[base + L.floor] = committed
    if entries ~= '' then entries = entries_from(entries, committed) end
  end
  l[base + L.entries] = entries .. table.concat(c.new)
end
log_entries = function(c)
  if not log then return end
  local n, new = #new_entries, c.new
  for i = 1, #new do new_entries[n + i] = new[i] end
  lowest, highest = min(lowest, c.first_new), max(highest, c.v[C.ledgers][c.ledger + L.last])
end

-- Writes the new entries, and raises the floor to what is committed.
write_log = function()
  if log and #new_entries > 0 then
    floor_rose = committed > log_floor
    log_floor = max(log_floor, committed)
    call('HSET', log, 'floor', log_floor, 'writes', log_writes + 1,
      string.format('%.0f:%.0f:%.0f', log_writes + 1, lowest, highest), table.concat(new_entries))
  end
end

-- Drops the entries below the floor.
trim_log = function()
  if not floor_rose then return end
  local dropped = {}
  for _, field in ipairs(call('HKEYS', log)) do
    local offset = match(field, ':(%d+)$')
    if offset and tonumber(offset) < log_floor and #dropped < LIMIT.keys then dropped[#dropped + 1] = field end
  end
  if #dropped > 0 then call('HDEL', log, unpack(dropped)) end
end
