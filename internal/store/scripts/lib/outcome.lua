-- The outcome of a step, values packed one after the other: whether it is there already, and
-- recording it.

-- Marks of an outcome: decided, or a repeat of an idempotency key's first request.
local MARK = { decided = 0, repeated = 1 }

-- Tells one life of a customer id from the next, so that a customer deleted and made
-- again does not inherit idempotency keys.
local ANY_EPOCH = '*'
local function epoch_of_customer()
  local packed = call('HGET', customer, 'c')
  return packed and unpacked(packed)[C.epoch] or ''
end

local function record(outcome)
  if keep == KEEP.outcome then
    remember(outcome)
  elseif keep == KEEP.turn then
    take_turn()
  end
  return outcome
end

-- The reply to a record that is not new or whose turn has not come, nil where it is to
-- be decided. packed is the ledger's field.
local function begin(packed)
  local NOT_YET = 0
  read_ledger(packed)
  if predecessor ~= '' and (not last_offset or last_offset < tonumber(predecessor)) then return NOT_YET end
  if keep == KEEP.outcome then
    local seen = recall()
    if seen then return seen end
  end
  local stored = idempotency_key and call('GET', idempotency_key)
  if stored then
    local first = unpacked(stored) -- {window's end, epoch, memo, outcome}
    if first[1] > now and (first[2] == ANY_EPOCH or first[2] == epoch_of_customer()) then
      return record(pack(MARK.repeated, first[3], first[4]))
    end
  end
end

-- Records the packed outcome, and takes the idempotency key where something was changed. The
-- key counts for this life of the customer, or for the epoch given.
local function finish(packed, changed, epoch)
  if idempotency_key and changed then
    local first = pack({ window_end, epoch or epoch_of_customer(), memo, packed })
    call('SET', idempotency_key, first, 'PX', string.format('%.0f', max(1, window_end - now)))
  end
  return record(packed)
end

-- The code of a customer that does not exist. forget.lua gives what is kept of such a one an
-- end; an outcome that is not committed must not have one.
local function no_customer()
  if keep == KEEP.outcome then call('PERSIST', customer) end
  return 'customer_not_found'
end
