-- What every script begins and ends with. A step is what is done for one record; the steps
-- of a call are taken one after the other.
--
-- KEYS, for each step: the customer, its entities, the older part of its ledger (ledger.lua),
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
local now, source, generation, committed, window_end, items, steps = unpack(cmsgpack.unpack(ARGV[1]))

-- The step at hand.
local customer, entities, older_ledger, idempotency_key
local offset, timestamp, predecessor, keep, memo, args

-- What the ledger keeps: the outcome, for redelivery; that the record had its turn, for the
-- one behind it; or nothing, where the record changes nothing and nothing waits for it.
local KEEP = { outcome = 'o', turn = 't' }

-- Writes a field of the customer. A script that does not read what it has written may have
-- its fields written together, at the end of the step: it sets deferred to an empty list.
local deferred
local DEFERRED_MOST = 1000 -- unpack takes no more than some thousands
local function write_deferred()
  if deferred and #deferred > 0 then redis.call('HSET', customer, unpack(deferred)) end
  deferred = deferred and {}
end
local function put(field, value)
  if not deferred then
    redis.call('HSET', customer, field, value)
    return
  end
  local n = #deferred
  deferred[n + 1], deferred[n + 2] = field, value
  if n > DEFERRED_MOST then write_deferred() end
end

local function each_step(decide)
  local FAILED = 0
  local replies, key = {}, 1
  for i, step in ipairs(steps) do
    customer, entities, older_ledger, idempotency_key = KEYS[key], KEYS[key + 1], KEYS[key + 2], nil
    key = key + 3
    if step[5] == 1 then idempotency_key, key = KEYS[key], key + 1 end
    offset, timestamp, predecessor, keep, memo, args = step[1], step[2], step[3], step[4], step[6], step[7]
    local decided, reply = pcall(decide) -- what one customer's state is like must not stop the others
    if decided then
      write_deferred()
    else
      deferred = deferred and {}
      reply = { FAILED, type(reply) == 'table' and reply.err or tostring(reply) }
    end
    replies[i] = reply
  end
  return replies
end
