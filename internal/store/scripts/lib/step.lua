-- What every script begins and ends with. A step is what is done for one record; the steps
-- of a call are taken one after the other.
--
-- KEYS, for each step: the customer, its entities, the entries of its ledger (ledger.lua),
-- and the idempotency key where the request has one.
-- ARGV[1] packed {now, source, generation, committed, window end, items, steps}: the topic
--   partition of the records (store.Source), the consumer group's generation, the committed
--   offset, when the window of an idempotency key ends, the catalogue's items, and of each step
--   {offset, timestamp, predecessor, keep, idempotent, memo, args}. predecessor is the offset
--   of the record that must have had its turn before, '' for none; keep is what the ledger
--   keeps (KEEP); idempotent is 1 where there is an idempotency key, and memo what a repeat
--   must know of this request (opaque); args are the script's own. Offsets of records,
--   timestamps and generations are text.
--
-- A script returns a list, for each step the outcome (MessagePack, see decode.go) where it was
-- decided now, {outcome} where the ledger had it, {} where the record is for a later
-- generation, 0 where its turn has not come, {0, error} where the script failed.
-- Invariant: the outcome is recorded in the same step as what it changed; records of one
-- customer are applied in their order, whatever became of a call in the middle of a pipeline.

-- (A global costs a look-up whenever it is used.)
local call, pack, unpacked = redis.call, cmsgpack.pack, cmsgpack.unpack
local min, max, match, tonumber, unpack = math.min, math.max, string.match, tonumber, unpack

local now, source, generation, committed, window_end, items, steps = unpack(unpacked(ARGV[1]))

-- The step at hand.
local customer, entities, entries_key, idempotency_key
local offset, timestamp, predecessor, keep, memo, args

-- What the ledger keeps: the outcome, for redelivery; that the record had its turn, for the
-- one behind it; or nothing, where the record changes nothing and nothing waits for it.
local KEEP = { outcome = 'o', turn = 't' }

-- Fields of the customer. A script that does not read what the same step has put may have its
-- fields written together, behind the step: it sets deferred to an empty list. Where several
-- steps are the same customer's, such fields are read once and written once for all of them.
local deferred                  -- what the step at hand has put: field, value, ...
local shared = false            -- whether the step before or behind is the same customer's
local known, unwritten = {}, {} -- of a shared customer: fields as they are, and those that are still to be written

-- The values of fields, false where there is none.
local function read(fields)
  if not shared then return call('HMGET', customer, unpack(fields)) end
  local missing = {}
  for i = 1, #fields do
    if known[fields[i]] == nil then missing[#missing + 1] = fields[i] end
  end
  local got, values = #missing > 0 and call('HMGET', customer, unpack(missing)), {}
  for i = 1, #missing do known[missing[i]] = got[i] end
  for i = 1, #fields do values[i] = known[fields[i]] end
  return values
end
local function get(field) return read({ field })[1] end

local function put(field, value)
  if deferred then
    local n = #deferred
    deferred[n + 1], deferred[n + 2] = field, value
  else
    call('HSET', customer, field, value)
  end
end
local function drop(field)
  call('HDEL', customer, field)
  if shared then known[field], unwritten[field] = false, nil end
end
local function increase(field, by)
  call('HINCRBY', customer, field, by)
  if shared then known[field] = nil end
end

local function write(fields)
  local MOST = 1000 -- unpack takes no more than some thousands
  for i = 1, #fields, MOST do
    call('HSET', customer, unpack(fields, i, min(#fields, i + MOST - 1)))
  end
end
local function write_shared()
  local fields = {}
  for field in pairs(unwritten) do
    local n = #fields
    fields[n + 1], fields[n + 2] = field, known[field]
  end
  write(fields)
  known, unwritten = {}, {}
end
