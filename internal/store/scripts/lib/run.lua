-- The way through a script: its steps one after the other. decide returns the reply to the step
-- at hand.
local function each_step(decide)
  local FAILED = 0
  local replies, key = {}, 1
  for i = 1, #steps do
    local step, before = steps[i], customer
    customer, entities, entries_key, idempotency_key = KEYS[key], KEYS[key + 1], KEYS[key + 2], nil
    key = key + 3
    if step[5] == 1 then idempotency_key, key = KEYS[key], key + 1 end
    offset, timestamp, predecessor, keep, memo, args = step[1], step[2], step[3], step[4], step[6], step[7]
    local goes_on = KEYS[key] == customer
    shared = deferred and (goes_on or before == customer)
    local decided, reply = pcall(decide) -- what one customer's state is like must not stop the others
    if not decided then
      reply = { FAILED, type(reply) == 'table' and reply.err or tostring(reply) }
    elseif shared then
      for n = 1, #deferred, 2 do known[deferred[n]], unwritten[deferred[n]] = deferred[n + 1], true end
    elseif deferred then
      write(deferred)
    end
    deferred = deferred and {}
    if not goes_on then
      if shared then write_shared() end
      write_entries()
    end
    replies[i] = reply
  end
  return replies
end
