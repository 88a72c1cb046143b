-- customer_put: creates or updates a customer; a new one gets the default plans.
-- uses: fields msgpack step ledger outcome run calendar pool deduct choose command plans
--
-- KEYS, ARGV, returns: see lib/step.lua.
-- args[1..3] name, email, metadata (JSON); '' leaves what is there
-- args[4] packed list of the default plans (lib/plans.lua)
--
-- Outcome: see lib/command.lua; the snapshots are all of the customer's pools.
-- Invariant: a customer's record keeps its epoch and sequence for life.
local function decide()
  local record = read_customer()
  local is_new = not record
  record = record or { now, 0, offset .. '@' .. timestamp, '', '', '' }
  for place, value in pairs({ [C.name] = args[1], [C.email] = args[2], [C.metadata] = args[3] }) do
    if value ~= '' then record[place] = value end
  end
  write_customer(record)
  if is_new then
    call('PERSIST', customer) -- forget.lua
    for _, plan in ipairs(unpacked(args[4])) do attach(record, plan, '', now) end
    write_customer(record)
  end
  return finish(command_outcome(current_pools(''), {}, {}), true)
end

return run(decide)
