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
      local code, is_job = detach(c, owner, plan_id, kept_features)
      if code then return nil, code end
      if is_job then error(NEEDS_MORE) end
      return snapshots_of(all_views(c, owner ~= c and owner or nil)), NOTHING, NOTHING, true
    end
  end
  return nil, 'plan_not_found'
end
