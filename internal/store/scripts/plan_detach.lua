-- plan_detach: detaches a plan; its balances and flags go.
-- uses: fields msgpack step ledger outcome run calendar pool deduct choose command plans
--
-- KEYS, ARGV, returns: see lib/step.lua.
-- args[1] the entity, '' for the customer
-- args[2] the plan's id
--
-- Outcome: see lib/command.lua; the snapshots are all pools as the customer or entity sees them.
-- Invariant: no balance of a plan outlives its attachment.
local function decide()
  local entity, plan_id = args[1], args[2]

  if not read_customer() then return finish(command_failure(no_customer()), false) end
  if entity ~= '' and not entity_exists(entity) then return finish(command_failure('entity_not_found'), false) end
  local plans = read_list(plans_field(entity))
  for i, attached in ipairs(plans) do
    if attached[P.id] == plan_id then
      remove_plan(attached, entity)
      table.remove(plans, i)
      store_list(plans_field(entity), plans)
      return finish(command_outcome(current_pools(entity), {}, {}), true)
    end
  end
  return finish(command_failure('plan_not_found'), false)
end

return run(decide)
