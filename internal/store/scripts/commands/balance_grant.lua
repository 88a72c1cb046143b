-- uses: layout msgpack call command plans
-- balance.grant: a standalone balance.
-- args: the feature; the balance's id, '' to have one made; the grant as a plan's item (I); when it
--   expires, 0: never
-- Outcome: extra is {the balance's id}.
-- Invariant: a balance's id is unique among the balances of its owner and feature: a plan's has a slash,
-- which a given one must not, and those that are made begin as no given one may (engine).
commands['balance.grant'] = function(c, feature, id, item, expires)
  local owner = owner_asked(c)
  if not owner then return nil, 'entity_not_found' end
  if expires > 0 and expires <= now then return nil, 'invalid_request: expires_at has passed already' end
  local b = new_balance(c, '', RANK.standalone, item, 0, now, now, 0, 1)
  b.details[D.id] = id ~= '' and id or 'auto-' .. string.format('%.0f', b.details[D.seq])
  b[B.expires] = expires
  for _, other in ipairs(balances_held(owner, feature)) do
    if other.details[D.plan] == '' and other.details[D.id] == b.details[D.id] then return nil, 'conflict' end
  end
  local code = add_balance(c, owner, feature, b)
  if code then return nil, code end
  return { snapshot_of(view_of(c, feature, owner ~= c and owner or nil)) }, NOTHING, { b.details[D.id] }, true
end
