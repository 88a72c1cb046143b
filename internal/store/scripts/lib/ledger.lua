-- The ledger: outcomes of records whose offsets are not committed yet, so that a
-- record processed again returns what it returned the first time, however late.
--
-- One per customer and topic partition. Fields of the customer's hash:
--   l<source>   <offset of the last record>:<its generation>:<'+' where there are more entries>
--   o<source>   an entry; it is there unless it was forgotten, or nothing but turns were taken
-- and a string with the other entries. An entry is the outcome of a record:
--   <offset>:<timestamp>:<bytes of the outcome>;<outcome>
-- Where all entries are committed the next one takes the place of that in the hash: a customer
-- who comes now and then has no other. One who comes more often gets the string, and what is
-- committed is cut off when it has grown long. Where no record comes for a while all entries are
-- forgotten (forget.lua), but not offset and generation of the last: a record that comes late
-- from a worker that lost its partition can be told from a new one for ever.
--
-- (Redis hashes every byte of every string that Lua makes: entries are not read to add one.)
--
-- Invariant: an outcome is there from the moment the record changed something until
-- its offset is committed.
local LONG, HEAD_BYTES = 16384, 64

local last_field, entry_field = 'l' .. source, 'o' .. source
local last_offset, last_generation, has_more -- of the ledger at hand; last_offset is nil where there is none
local new_entries, replacing = {}, false     -- of the string, still to be written; whether they take the place of all others

local function read_ledger(last)
  last_offset, has_more = nil, ''
  if not last then return end
  last_offset, last_generation, has_more = match(last, '^(%d+):(%d+):(%+?)$')
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

-- The entries in the string.
local function more_entries()
  local written = not replacing and call('GET', entries_key) or ''
  return written .. table.concat(new_entries)
end

-- What the ledger says of the record: nil where it is new; {outcome} where it was applied
-- before; {} where a later generation of the consumer group has been past it: then the caller
-- has lost the partition, and the outcome was published and committed by another.
local function recall()
  if not last_offset or last_offset < tonumber(offset) then return nil end
  local outcome = find_outcome(get(entry_field) or '')
  if not outcome and has_more == '+' then outcome = find_outcome(more_entries()) end
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
local function note_last() put(last_field, offset .. ':' .. generation .. ':' .. has_more) end

-- Adds the outcome, and drops what the committed offset has made superfluous.
local function remember(outcome)
  local entry = offset .. ':' .. timestamp .. ':' .. #outcome .. ';' .. outcome
  local all_committed = not last_offset or last_offset < committed
  if all_committed and has_more == '' then
    put(entry_field, entry)
  elseif all_committed then
    new_entries, replacing = { entry }, true
  else
    has_more = '+'
    new_entries[#new_entries + 1] = entry
  end
  note_last()
end

-- Notes that a record of which no outcome is kept had its turn.
local function take_turn()
  if not last_offset or last_offset < tonumber(offset) then note_last() end
end
