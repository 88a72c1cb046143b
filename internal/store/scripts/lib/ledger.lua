-- The ledger: outcomes of records whose offsets are not committed yet, so that a
-- record processed again returns what it returned the first time, however late.
--
-- One per customer and topic partition. Its younger part is a field of the customer's hash:
--   <offset of the last record>:<generation of the last record>:<'+' where there is an older part>;<entries>
-- and its older part a string. An entry is the outcome of a record, the oldest first:
--   <offset>:<timestamp>:<bytes of the outcome>;<outcome>
-- When all entries are committed the next one takes their place. A younger part that has grown
-- long goes to the older, and of that, when it has, what is committed is cut off. Where no
-- record comes for a while the entries are forgotten (forget.lua), but not offset and generation
-- of the last: a record that comes late from a worker that lost its partition can be told
-- from a new one for ever.
--
-- Invariant: an outcome is there from the moment the record changed something until
-- its offset is committed.
local LONG_YOUNGER, LONG_OLDER, HEAD_BYTES = 1024, 16384, 64

local ledger_field = 'l' .. source
local last_offset, last_generation, has_older, younger -- of the ledger at hand; last_offset is nil where there is none

local function read_ledger(packed)
  last_offset, younger = nil, ''
  if not packed then return end
  local from
  last_offset, last_generation, has_older, from = string.match(packed, '^(%d+):(%d+):(%+?);()')
  last_offset, younger = tonumber(last_offset), string.sub(packed, from)
end

-- The outcome of the record at hand among entries, nil where it is not.
local function find_outcome(entries)
  local place = 1
  while place <= #entries do
    local seen_offset, seen_timestamp, bytes, from = string.match(entries, '^(%d+):(%-?%d+):(%d+);()', place)
    place = from + bytes
    if seen_offset == offset and seen_timestamp == timestamp then return string.sub(entries, from, place - 1) end
  end
end

-- What the ledger says of the record: nil where it is new; {outcome} where it was applied
-- before; {} where a later generation of the consumer group has been past it: then the caller
-- has lost the partition, and the outcome was published and committed by another.
local function recall()
  if not last_offset or last_offset < tonumber(offset) then return nil end
  local outcome = find_outcome(younger)
  if not outcome and has_older ~= '' then outcome = find_outcome(redis.call('GET', older_ledger)) end
  if outcome then return { outcome } end
  if tonumber(generation) < tonumber(last_generation) then return {} end
end

-- Cuts off what is committed of the older part, where that is anything.
local function cut_older()
  local first = string.match(redis.call('GETRANGE', older_ledger, 0, HEAD_BYTES), '^%d+')
  if tonumber(first) >= committed then return end
  local entries, place = redis.call('GET', older_ledger), 1
  while place <= #entries do
    local entry_offset, bytes, from = string.match(entries, '^(%d+):%-?%d+:(%d+);()', place)
    if tonumber(entry_offset) >= committed then break end
    place = from + bytes
  end
  redis.call('SET', older_ledger, string.sub(entries, place))
end

-- Makes the record the last, with its entry, and drops what the committed offset has made
-- superfluous.
local function add_entry(entry)
  if not last_offset or last_offset < committed then
    if has_older == '+' and last_offset then redis.call('DEL', older_ledger) end
    has_older, younger = '', ''
  elseif #younger > LONG_YOUNGER then
    if redis.call('APPEND', older_ledger, younger) > LONG_OLDER then cut_older() end
    has_older, younger = '+', ''
  end
  put(ledger_field, offset .. ':' .. generation .. ':' .. has_older .. ';' .. younger .. entry)
end

local function remember(outcome) add_entry(offset .. ':' .. timestamp .. ':' .. #outcome .. ';' .. outcome) end

-- Notes that a record of which no outcome is kept had its turn.
local function take_turn()
  if not last_offset or last_offset < tonumber(offset) then add_entry('') end
end
