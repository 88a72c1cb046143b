-- uses: layout msgpack call command plans
-- customer.put: creates or updates a customer; a new one gets the default plans.
-- args: name, email, metadata (JSON): '' leaves what is there; the default plans, a list of PLAN
-- Outcome: the snapshots are all of the customer's pools.
-- Invariant: a customer keeps its life and its sequence until it is deleted.
commands['customer.put'] = function(c, name, email, metadata, defaults)
  if not exists(c) then
    local life = string.format('%.0f/%.0f', now, a[at + STEP.offset])
    c.v, c.pools, c.sums, c.owners, c.chunks, c.ledger, c.locks, c.held, c.held_changed = bare_customer(life, c.v), {}, nil, nil, nil, nil, nil, nil, nil
    c.changed = true
    for _, plan in ipairs(defaults) do
      local code = attach(c, c, plan, now, NOTHING)
      if code then return nil, code end
    end
  end
  if name .. email .. metadata ~= '' then
    local profile = profile_of(c)
    if name ~= '' then profile[PROFILE.name] = name end
    if email ~= '' then profile[PROFILE.email] = email end
    if metadata ~= '' then profile[PROFILE.metadata] = metadata end
    c.profile = profile
    put_key(c, c.key .. ':p', text_of(profile))
  end
  return snapshots_of(all_views(c)), NOTHING, NOTHING, true
end
