-- What every script that changes something begins and ends with.
--
-- KEYS[1] the customer, KEYS[2] its entities, KEYS[3] the ledger of the record's topic
-- partition, KEYS[4] the idempotency key (only where the request has one).
-- ARGV[1] now, ARGV[2] the record's offset, ARGV[3] its timestamp, ARGV[4] the consumer
-- group's generation, ARGV[5] the committed offset of its partition, ARGV[6] when the
-- idempotency key's window ends, ARGV[7] what a repeat must know of this request (opaque),
-- ARGV[8] the catalogue's items, ARGV[9] the offset of the record that must be in the ledger
-- before this one, '' for none, ARGV[10] what the ledger keeps of this one (KEEP).
--
-- A script returns the outcome (MessagePack, see outcome.go) where it was decided now,
-- {outcome} where the ledger had it, {} where the record is for a later generation,
-- 0 where its turn has not come.
-- Invariant: the outcome is recorded in the same step as what it changed; records of one
-- customer are applied in their order, whatever became of a call in the middle of a pipeline.
local now, items, keep = tonumber(ARGV[1]), ARGV[8], ARGV[10]
local ledger_last

-- What the ledger keeps: the outcome, for redelivery; that the record had its turn, for the
-- one behind it; or nothing, where the record changes nothing and nothing waits for it.
local KEEP = { outcome = 'o', turn = 't' }

-- Marks of an outcome: decided, or a repeat of an idempotency key's first request.
local MARK = { decided = 0, repeated = 1 }

-- Tells one life of a customer id from the next, so that a customer deleted and made
-- again does not inherit idempotency keys.
local ANY_EPOCH = '*'
local function epoch_of(customer)
  local packed = redis.call('HGET', customer, 'c')
  return packed and cmsgpack.unpack(packed)[C.epoch] or ''
end

local function record(outcome)
  if keep == KEEP.outcome then
    remember(KEYS[3], ledger_last, ARGV[5], ARGV[2], ARGV[3], ARGV[4], outcome)
  elseif keep == KEEP.turn then
    take_turn(KEYS[3], ARGV[5], ARGV[2], ARGV[3], ARGV[4])
  end
  return outcome
end

-- The reply to a record whose predecessor has not been applied: its script was not loaded,
-- say, or its slot was moving. nil where there is none.
local NOT_YET = 0
local function not_yet()
  if ARGV[9] == '' then return nil end
  local last = last_entry(KEYS[3])
  if not last or last < tonumber(ARGV[9]) then return NOT_YET end
end

-- The reply to a record that is not new or whose turn has not come, nil where it is to
-- be decided.
local function begin()
  if not_yet() then return NOT_YET end
  if keep == KEEP.outcome then
    local seen, last = recall(KEYS[1], KEYS[3], ARGV[2], ARGV[3], ARGV[4])
    if seen then return seen end
    ledger_last = last
  end
  if KEYS[4] then
    local stored = redis.call('GET', KEYS[4])
    if stored then
      local first = cmsgpack.unpack(stored) -- {window's end, epoch, origin, outcome}
      if first[1] > now and (first[2] == ANY_EPOCH or first[2] == epoch_of(KEYS[1])) then
        return record(cmsgpack.pack({ MARK.repeated, first[3], first[4] }))
      end
    end
  end
end

-- Records the outcome, and takes the idempotency key where something was changed. The
-- key counts for this life of the customer, or for the epoch given.
local function finish(outcome, changed, epoch)
  local packed = cmsgpack.pack(outcome)
  if KEYS[4] and changed then
    local window_ms = tonumber(ARGV[6]) - now
    local first = cmsgpack.pack({ tonumber(ARGV[6]), epoch or epoch_of(KEYS[1]), ARGV[7], packed })
    redis.call('SET', KEYS[4], first, 'PX', string.format('%.0f', math.max(1, window_ms)))
  end
  return record(packed)
end
