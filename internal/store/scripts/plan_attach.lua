-- plan_attach: attaches a plan to a customer or an entity.
-- uses: fields msgpack step ledger outcome run calendar pool deduct choose command plans
--
-- KEYS, ARGV, returns: see lib/step.lua.
-- args[1] the entity, '' for the customer
-- args[2] the packed plan (lib/plans.lua)
-- args[3] when it starts: the anchor of its periods
--
-- Outcome: see lib/command.lua; the snapshots are all pools as the customer or entity sees them.
-- Invariant: at most one main plan of a group per owner.
local function decide()
  local entity, plan = args[1], unpacked(args[2])

  local record = read_customer()
  if not record then return finish(command_failure(no_customer()), false) end
  if entity ~= '' and not entity_exists(entity) then return finish(command_failure('entity_not_found'), false) end
  local code = attach(record, plan, entity, tonumber(args[3]))
  if code then return finish(command_failure(code), false) end
  write_customer(record)
  return finish(command_outcome(current_pools(entity), {}, {}), true)
end

return run(decide)
