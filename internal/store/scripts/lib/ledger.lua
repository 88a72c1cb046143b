-- The ledger: outcomes of records whose offsets are not committed yet, so that a
-- record processed again returns what it returned the first time, however late.
--
-- One per customer and topic partition. A field of the customer's hash tells the last record:
--   l<source>   <offset>:<generation>
-- and a string has an entry per outcome, oldest first:
--   <offset>:<timestamp>:<bytes of the outcome>;<outcome>
-- Where all entries are committed the next one takes their place; a string that has grown long
-- is cut. Where no record comes for a while the string is forgotten (forget.lua), but not the
-- last record: one that comes late from a worker that lost its partition can be told from a new
-- one for ever.
--
-- (Entries are not read to add one: Redis hashes every byte of every string that Lua makes. And
-- they are not in the hash: a value of more than 64 bytes doubles what a hash takes.)
--
-- Invariant: an outcome is there from the moment the record changed something until
-- its offset is committed.
local LONG, HEAD_BYTES = 16384, 64

local last_field = 'l' .. source
local last_offset, last_generation       -- of the ledger at hand; nil where there is none
local new_entries, replacing = {}, false -- still to be written; whether they take the place of all others

local function read_ledger(last)
  last_offset = nil
  if not last then return end
  last_offset, last_generation = match(last, '^(%d+):(%d+)$')
  last_offset = tonumber(last_offset)
end

-- The outcome of the record at hand among entries, nil where it is not.
local function find_outcome(entries)
  local place = 1
  while place <= #entries do
    local seen_offset, seen_timestamp, bytes, from = match(entries, '^(%d+):(%-?%d+):(%d+);()', place)
    place = from + bytes
    if seen_offset == offset and seen_timestamp == timestamp then return string.sub(entries, from, place - 1) end
  end
end

-- What the ledger says of the record: nil where it is new; {outcome} where it was applied
-- before; {} where a later generation of the consumer group has been past it: then the caller
-- has lost the partition, and the outcome was published and committed by another.
local function recall()
  if not last_offset or last_offset < tonumber(offset) then return nil end
  local written = not replacing and call('GET', entries_key) or ''
  local outcome = find_outcome(written .. table.concat(new_entries))
  if outcome then return { outcome } end
  if tonumber(generation) < tonumber(last_generation) then return {} end
end

-- Cuts off the entries, oldest first, that are committed.
local function cut()
  local first = match(call('GETRANGE', entries_key, 0, HEAD_BYTES), '^%d+')
  if tonumber(first) >= committed then return end
  local entries, place = call('GET', entries_key), 1
  while place <= #entries do
    local entry_offset, bytes, from = match(entries, '^(%d+):%-?%d+:(%d+);()', place)
    if tonumber(entry_offset) >= committed then break end
    place = from + bytes
  end
  call('SET', entries_key, string.sub(entries, place))
end

local function write_entries()
  if #new_entries == 0 then return end
  local entries = table.concat(new_entries)
  if replacing then
    call('SET', entries_key, entries)
  elseif call('APPEND', entries_key, entries) > LONG then
    cut()
  end
  new_entries, replacing = {}, false
end

-- Makes the record the last of the ledger.
local function note_last() put(last_field, offset .. ':' .. generation) end

-- Adds the outcome, and drops what the committed offset has made superfluous.
local function remember(outcome)
  if not last_offset or last_offset < committed then new_entries, replacing = {}, true end
  new_entries[#new_entries + 1] = offset .. ':' .. timestamp .. ':' .. #outcome .. ';' .. outcome
  note_last()
end

-- Notes that a record of which no outcome is kept had its turn.
local function take_turn()
  if not last_offset or last_offset < tonumber(offset) then note_last() end
end
