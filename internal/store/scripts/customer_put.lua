-- customer_put: creates or updates a customer; a new one gets the default plans.
-- uses: fields msgpack ledger calendar pool deduct outcome choose command plans
--
-- KEYS, ARGV 1..10, returns: see lib/outcome.lua.
-- ARGV[11..13] name, email, metadata (JSON); '' leaves what is there
-- ARGV[14] packed list of the default plans (lib/plans.lua)
--
-- Outcome: see lib/command.lua; the snapshots are all of the customer's pools.
-- Invariant: a customer's record keeps its epoch and sequence for life.
local seen = begin()
if seen then return seen end

local record = read_customer()
local is_new = not record
record = record or { now, 0, ARGV[2] .. '@' .. ARGV[3], '', '', '' }
for place, value in pairs({ [C.name] = ARGV[11], [C.email] = ARGV[12], [C.metadata] = ARGV[13] }) do
  if value ~= '' then record[place] = value end
end
write_customer(record)
if is_new then
  redis.call('PERSIST', KEYS[1]) -- forget.lua
  for _, plan in ipairs(cmsgpack.unpack(ARGV[14])) do attach(record, plan, '', now) end
  write_customer(record)
end
return finish(command_outcome(current_pools(''), {}, {}), true)
