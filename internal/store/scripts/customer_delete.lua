-- customer_delete: removes a customer and all of its state.
-- uses: fields msgpack step ledger outcome run calendar pool deduct choose command
--
-- KEYS, ARGV, returns: see lib/step.lua.
--
-- Outcome: see lib/command.lua.
-- Invariant: only its ledgers outlive the customer, so that a redelivery is recognised;
-- idempotency keys of this life mean nothing to the next (epoch_of), but for
-- its own: sending it again must not delete the next.
local function decide()
  if not read_customer() then return finish(command_failure(no_customer()), false) end
  local ledgers = {}
  for _, field in ipairs(call('HKEYS', customer)) do
    if string.sub(field, 1, 1) == 'l' then ledgers[field] = call('HGET', customer, field) end
  end
  call('UNLINK', customer, entities)
  for field, ledger in pairs(ledgers) do call('HSET', customer, field, ledger) end
  return finish(command_outcome({}, {}, {}), true, ANY_EPOCH)
end

return run(decide)
