-- The ledger: outcomes of records whose offsets are not committed yet, so that a
-- record processed again returns what it returned the first time, however late.
--
-- One list per customer and topic partition (store.Source), an entry per record, oldest first:
--   <offset>:<timestamp>:<generation>:<outcome>
-- The outcome is empty where all that matters is that the record had its turn.
-- Entries below the committed offset are dropped by the next call. Where none comes for
-- a while the list is forgotten (forget.lua), and the customer's hash keeps
-- <offset>:<generation> of the last entry: a record that comes late from a worker that
-- lost its partition can be told from a new one for ever.
--
-- Invariant: an outcome is there from the moment the record changed something until
-- its offset is committed.
local function entry_parts(entry)
  local offset, timestamp, generation, outcome = string.match(entry, '^(%d+):(%-?%d+):(%d+):(.*)$')
  return offset, timestamp, tonumber(generation), outcome
end

local function entry_offset(entry) return tonumber(string.match(entry, '^%d+')) end

local function forgotten_field(ledger) return 'z' .. string.match(ledger, '}:l:(.+)$') end

-- As recall, where there is no list.
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
  local tail = redis.call('LINDEX', ledger, -1)
  if not tail then return recall_forgotten(customer, ledger, offset, generation) end
  local last = entry_offset(tail)
  if last < tonumber(offset) then return nil, last end
  for _, entry in ipairs(redis.call('LRANGE', ledger, 0, -1)) do
    local seen_offset, seen_timestamp, _, outcome = entry_parts(entry)
    if seen_offset == offset and seen_timestamp == timestamp then return { outcome } end
  end
  local _, _, tail_generation = entry_parts(tail)
  if tonumber(generation) < tail_generation then return {} end
  return nil, last
end

-- Adds the outcome and drops what the committed offset has made superfluous.
local function remember(ledger, last, committed, offset, timestamp, generation, outcome)
  committed = tonumber(committed)
  if last and last < committed then
    redis.call('DEL', ledger)
  elseif last then
    local head = redis.call('LINDEX', ledger, 0)
    while head and entry_offset(head) < committed do
      redis.call('LPOP', ledger)
      head = redis.call('LINDEX', ledger, 0)
    end
  end
  redis.call('RPUSH', ledger, offset .. ':' .. timestamp .. ':' .. generation .. ':' .. outcome)
end

-- Notes that a record of which no outcome is kept had its turn.
local function take_turn(ledger, committed, offset, timestamp, generation)
  local tail = redis.call('LINDEX', ledger, -1)
  local last = tail and entry_offset(tail)
  if not last or last < tonumber(offset) then
    remember(ledger, last, committed, offset, timestamp, generation, '')
  end
end
