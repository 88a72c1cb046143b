-- uses: layout msgpack call command plans
-- plan.detach: detaches a plan; its balances and flags go.
-- args: the plan's id; features whose usage outlives a plan, a list
-- Outcome: the snapshots are all pools as the customer or entity sees them.
-- Invariant: no balance of a plan outlives its attachment; what entities hold stays used.
commands['plan.detach'] = function(c, plan_id, kept_features)
  local owner = owner_asked(c)
  if not owner then return nil, 'entity_not_found' end
  for _, attached in ipairs((plans_of(owner))) do
    if attached[P.id] == plan_id then
      local used, code = remove_plan(c, owner, attached, kept_features)
      code = code or move_usage(c, owner, used)
      if code then return nil, code end
      return snapshots_of(all_views(c, owner ~= c and owner or nil)), NOTHING, NOTHING, true
    end
  end
  return nil, 'plan_not_found'
end
