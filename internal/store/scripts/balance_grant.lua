-- balance_grant: a standalone balance.
-- uses: fields msgpack step ledger outcome run calendar pool deduct choose command plans
--
-- KEYS, ARGV, returns: see lib/step.lua.
-- args[1] the entity, '' for the customer
-- args[2] the feature
-- args[3] the balance's id, '' to have one made
-- args[4] the grant as a packed plan item (I)
-- args[5] when it expires, 0: never
--
-- Outcome: see lib/command.lua; extra: {the balance's id}.
-- Invariant: a balance's id is unique among the balances of its owner and feature.
local function decide()
  local entity, feature, id, item = args[1], args[2], args[3], unpacked(args[4])

  local record = read_customer()
  if not record then return finish(command_failure(no_customer()), false) end
  if entity ~= '' and not entity_exists(entity) then return finish(command_failure('entity_not_found'), false) end
  local owner = read_owner_now(feature, entity)
  local STANDALONE = 2
  local b = new_balance(record, '', STANDALONE, item, 0, now, now, 0, 1)
  b[B.id] = id ~= '' and id or 'grant-' .. string.format('%.0f', b[B.seq])
  b[B.expires] = tonumber(args[5])
  for _, other in ipairs(owner[OWNER.balances]) do
    if balance_id(other, feature, entity) == b[B.id] then return finish(command_failure('conflict'), false) end
  end
  add_balance(feature, owner, b)
  write_customer(record)
  return finish(command_outcome({ current_pool(feature, entity) }, {}, { b[B.id] }), true)
end

return run(decide)
