-- The ledger: outcomes of records whose offsets are not committed yet, so that a
-- record processed again returns what it returned the first time, however late.
--
-- One string per customer and topic partition (store.Source), an entry per record, oldest
-- first. It can be read from either end:
--   <bytes of the outcome>;<outcome>\n<offset>:<timestamp>:<generation>;
-- The outcome is empty where all that matters is that the record had its turn.
-- When all entries are committed the next one takes their place; a string that has grown
-- long is cut. Where none comes for a while it is forgotten (forget.lua), and the
-- customer's hash keeps <offset>:<generation> of the last entry: a record that comes late
-- from a worker that lost its partition can be told from a new one for ever.
--
-- Invariant: an outcome is there from the moment the record changed something until
-- its offset is committed.
local HEAD_BYTES, TAIL_BYTES, LONG_BYTES = 32, 64, 16384

-- Offset and generation of the last entry, nil where there is no ledger.
local function last_entry(ledger)
  local offset, generation = string.match(redis.call('GETRANGE', ledger, -TAIL_BYTES, -1), '\n(%d+):%-?%d+:(%d+);$')
  return tonumber(offset), generation
end

-- The entry that begins at a place: where its outcome begins and ends, its offset and
-- timestamp, and where the next begins.
local function entry_at(text, place)
  local bytes, from = string.match(text, '^(%d+);()', place)
  local to = from + bytes - 1
  local offset, timestamp, next_place = string.match(text, '^\n(%d+):(%-?%d+):%d+;()', to + 1)
  return from, to, offset, timestamp, next_place
end

local function forgotten_field(ledger) return 'z' .. string.match(ledger, '}:l:(.+)$') end

-- As recall, where there is no ledger.
local function recall_forgotten(customer, ledger, offset, generation)
  local forgotten = redis.call('HGET', customer, forgotten_field(ledger))
  if not forgotten then return nil, nil end
  local last, last_generation = string.match(forgotten, '^(%d+):(%d+)$')
  if tonumber(offset) <= tonumber(last) and tonumber(generation) < tonumber(last_generation) then return {} end
  return nil, nil
end

-- What the ledger says of the record: nil and the last entry's offset (nil: the
-- ledger is empty) where it is new; {outcome} where it was applied before; {} where
-- a later generation of the consumer group has been past it: then the caller has
-- lost the partition, and the outcome was published and committed by another.
local function recall(customer, ledger, offset, timestamp, generation)
  local last, last_generation = last_entry(ledger)
  if not last then return recall_forgotten(customer, ledger, offset, generation) end
  if last < tonumber(offset) then return nil, last end
  local text, place = redis.call('GET', ledger), 1
  while place <= #text do
    local from, to, seen_offset, seen_timestamp, next_place = entry_at(text, place)
    if seen_offset == offset and seen_timestamp == timestamp then return { string.sub(text, from, to) } end
    place = next_place
  end
  if tonumber(generation) < tonumber(last_generation) then return {} end
  return nil, last
end

-- Cuts off what is committed, where that is anything.
local function cut(ledger, committed)
  local text, place = redis.call('GET', ledger), 1
  while place <= #text do
    local _, _, offset, _, next_place = entry_at(text, place)
    if tonumber(offset) >= committed then break end
    place = next_place
  end
  redis.call('SET', ledger, string.sub(text, place))
end

-- Whether the oldest entry is committed.
local function may_cut(ledger, committed)
  local bytes, from = string.match(redis.call('GETRANGE', ledger, 0, HEAD_BYTES), '^(%d+);()')
  local offset = string.match(redis.call('GETRANGE', ledger, from + bytes - 1, from + bytes + HEAD_BYTES), '^\n(%d+):')
  return tonumber(offset) < committed
end

-- Adds the outcome and drops what the committed offset has made superfluous.
local function remember(ledger, last, committed, offset, timestamp, generation, outcome)
  local entry = #outcome .. ';' .. outcome .. '\n' .. offset .. ':' .. timestamp .. ':' .. generation .. ';'
  committed = tonumber(committed)
  if not last or last < committed then
    redis.call('SET', ledger, entry)
  elseif redis.call('APPEND', ledger, entry) > LONG_BYTES and may_cut(ledger, committed) then
    cut(ledger, committed)
  end
end

-- Notes that a record of which no outcome is kept had its turn.
local function take_turn(ledger, committed, offset, timestamp, generation)
  local last = last_entry(ledger)
  if not last or last < tonumber(offset) then
    remember(ledger, last, committed, offset, timestamp, generation, '')
  end
end
