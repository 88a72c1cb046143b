-- uses: layout msgpack struct call log
-- The ledger: outcomes of records whose offsets are not committed yet, so that a record processed again
-- returns what it returned the first time, however late.
--
-- Of each source (a topic partition within a lifetime of the consumer group, so that what is committed of it
-- only grows) a customer's value has, under the name of the source's ledger, the offset of the last record that
-- was decided: it is written with what the record changed. Outcomes are in the log of the source, a hash:
--   floor              offset below which all is committed and forgotten
--   writes             how often it was written
--   <write>:<lowest>:<highest>  formats.entry of the records that one call decided, one after the other, and the
--                      lowest and highest of their offsets
-- The log is written before the customers' values. Without a log (in a Cluster, where it would lie on another
-- node) floor and entries are in the customer's value, too (L).
--
-- Invariant: of every record that was kept, is not above the customer's last and not below the floor, there is
-- an entry, and the one that was written last is the outcome. So a record is new, and may be decided, only
-- above the last; an entry above it is of a call whose writes did not come to pass, and counts for nothing,
-- also when the record has been decided in another call since.
local STALE = {}

-- No feature's id begins with a NUL.
local ledger_name = '\0' .. source
local function is_ledger(name) return string.byte(name, 1, 1) == 0 end

local log = a[HEAD.log] > 0 and KEYS[a[HEAD.log]]
local log_floor, log_writes
local floor_rose = false
if log then
  local head = call('HMGET', log, 'floor', 'writes')
  log_floor, log_writes = tonumber(head[1] or 0), tonumber(head[2] or 0)
end
local log_index -- of all entries of the log, once they were needed
local new_entries, lowest, highest = {}, math.huge, -1 -- for the log

-- Finds the ledger of the call's source among a customer's: c.ledger is its place, false if there is none.
-- Returns what it has of the customer.
local function open_ledger(c)
  local v = c.v
  if c.ledger == nil then
    c.ledger = false
    for i = C.pools, v and #v or 0, 2 do
      if v[i] == ledger_name then c.ledger = i + 1 end
    end
  end
  return c.ledger and v[c.ledger]
end

-- What the ledger says of the record at hand: nil if it is new, STALE if it is committed, else {outcome}.
local function recall(c)
  local l, offset = open_ledger(c), a[at + STEP.offset]
  if offset < (log_floor or l and l[L.floor] or 0) then return STALE end
  if not l or offset > (log and l or l[L.last]) then return nil end
  local seen = index_of(c)[offset]
  if not seen then error('the ledger lacks the outcome of a record that was decided') end
  -- An offset that was given to another record since (a log that was truncated) is new.
  if seen[1] == a[at + STEP.timestamp] then return { seen[2] } end
end

-- The values of a customer that has nothing but its ledgers, which outlive it: v are those that it had.
local function bare_customer(life, v)
  local bare = { LIMIT.format, life, 0, '', '', '', '', '' }
  for i = C.pools, v and #v or 0, 2 do
    if is_ledger(v[i]) then bare[#bare + 1], bare[#bare + 2] = v[i], v[i + 1] end
  end
  return bare
end

-- Keeps the outcome of the record at hand.
local function remember(c, outcome)
  local l, offset = open_ledger(c), a[at + STEP.offset]
  if not l then
    l = log and 0 or { 0, 0, '' }
    c.v = c.v or bare_customer('')
    local n = #c.v
    c.ledger, c.v[n + 1], c.v[n + 2] = n + 2, ledger_name, l
  end
  local new = c.new
  if not new then
    new = {}
    c.new = new
    c.first_new = offset
  end
  local n = #new
  new[n + 1], new[n + 2] = struct_pack(formats.entry_head, offset, a[at + STEP.timestamp], #outcome), outcome
  if offset < c.first_new then c.first_new = offset end
  if log then c.v[c.ledger] = max(l, offset) else l[L.last] = max(l[L.last], offset) end
  c.changed = true
end

-- Puts a customer's new entries where they belong: into its values, before these are packed, or into the log, once they
-- are. Those of a customer that failed must not get there: an offset may be that of another record since (recall).
local function log_entries(c)
  if not log then return end
  local n, new = #new_entries, c.new
  for i = 1, #new do new_entries[n + i] = new[i] end
  lowest, highest = min(lowest, c.first_new), max(highest, open_ledger(c))
end
local function keep_entries(c)
  if log then return end
  local l = open_ledger(c)
  if committed > l[L.floor] then
    l[L.floor] = committed
    if l[L.entries] ~= '' then l[L.entries] = entries_from(l[L.entries], committed) end
  end
  l[L.entries] = l[L.entries] .. table.concat(c.new)
end

-- Writes the new entries, and raises the floor to what is committed.
local function write_log()
  if log and #new_entries > 0 then
    floor_rose = committed > log_floor
    log_floor = max(log_floor, committed)
    call('HSET', log, 'floor', log_floor, 'writes', log_writes + 1,
      string.format('%.0f:%.0f:%.0f', log_writes + 1, lowest, highest), table.concat(new_entries))
  end
end

-- Drops the entries below the floor, once it has risen.
local function trim_log()
  if floor_rose then drop_entries(log, log_floor) end
end
