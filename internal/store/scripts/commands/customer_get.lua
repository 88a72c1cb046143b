-- uses: layout msgpack call command
-- customer.get: everything that is known of a customer.
-- args: none
-- Outcome: extra is {created, name, email, metadata, plans, flags, entities, how many entities there are, locks}:
-- plans a list of {entity, P}, flags of F of the customer, entities of {id, created, feature, name,
-- snapshots of the balances that it holds itself}, at most LIMIT.entities_shown of them; locks HELD of each, one after the other.
-- Invariant: changes no balance but by resets and expiries that are due.
commands['customer.get'] = function(c)
  local profile = profile_of(c)
  local plans, entities = {}, {}
  local attached, flags = plans_of(c)
  for _, plan in ipairs(attached) do plans[#plans + 1] = { '', plan } end
  each_entity(c, function(entity)
    local id = entity.entity
    for _, plan in ipairs((plans_of(entity))) do plans[#plans + 1] = { id, plan } end
    local held, v = {}, entity.v
    for i = E.pools, #v, 2 do
      local p = pool_of(entity, v[i])
      if p and #p.s > POOL.base then held[#held + 1] = { feature = v[i], parts = { p }, customer = c } end
    end
    local feature, name = unpack(values_of(v[E.about]))
    entities[#entities + 1] = { id, v[E.created], feature, name, snapshots_of(held) }
    return #entities == LIMIT.entities_shown
  end)
  local created = tonumber(match(c.v[C.life], '^%d+'))
  local extra = { created, profile[PROFILE.name], profile[PROFILE.email], profile[PROFILE.metadata], plans, flags, entities, how_many_entities(c), { unpack(held_locks(c), 2) } }
  return snapshots_of(all_views(c)), NOTHING, extra, false
end
