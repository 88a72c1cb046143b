-- uses: layout msgpack call command plans
-- plan.attach: attaches a plan to a customer or an entity.
-- args: the plan (PLAN); when it starts, the anchor of its periods, 0: now; the latest that it may
--   start at, from now on, ms; features whose usage outlives a plan, a list
-- Outcome: the snapshots are all pools as the customer or entity sees them.
-- Invariant: at most one main plan of a group per owner.
commands['plan.attach'] = function(c, plan, starts, tolerance, kept_features)
  local owner = owner_asked(c)
  if not owner then return nil, 'entity_not_found' end
  if starts == 0 then starts = now end
  if starts > now + tolerance then
    return nil, 'invalid_request: starts_at lies in the future; attach the plan when it starts'
  end
  local code, is_job = attach(c, owner, plan, starts, kept_features)
  if code then return nil, code end
  if is_job then error(NEEDS_MORE) end
  return snapshots_of(all_views(c, owner ~= c and owner or nil)), NOTHING, NOTHING, true
end
