-- track: usage without asking (semantics: Usage without asking).
-- uses: fields msgpack step ledger outcome run calendar pool deduct choose command
--
-- KEYS, ARGV, returns: see lib/step.lua.
-- args[1] the entity, '' for the customer
-- args[2] what to do where not all of it is allowed: cap, reject or allow
-- args[3] packed list, an entry per feature: its candidates, see lib/choose.lua
--
-- Outcome: see lib/command.lua; an event per feature, deducted from or not.
-- Invariant: each feature is a step of its own; reject takes all of it or nothing, cap
-- never passes a bound.
local function decide()
  local entity, behaviour, features = args[1], args[2], unpacked(args[3])

  local events, pools, tracked, changed, first_code = {}, {}, false, false, nil
  for _, candidates in ipairs(features) do
    local pool, code = choose(entity, candidates, 1)
    if not pool then return finish(command_failure(code), false) end
    local lines, amount = {}, 0
    local refused = not pool[POOL.need] or pool[POOL.code] == 'not_entitled' or (behaviour == 'reject' and not pool[POOL.allowed])
    if not refused then
      lines, amount = apply(pool, pool[POOL.need], behaviour == 'allow')
      if not lines then
        refused, pool[POOL.code], lines, amount = true, 'amount_out_of_range', {}, 0
        pool = current_pool(pool[POOL.feature], entity)
        pool[POOL.code] = 'amount_out_of_range'
      end
    end
    if refused then first_code = first_code or pool[POOL.code] else tracked = true end
    changed = changed or #lines > 0
    pools[#pools + 1] = pool
    events[#events + 1] = { candidates[1], candidates[2], refused and pool[POOL.code] or '', amount, pool_snapshot(pool), lines }
  end
  if not tracked then return finish(command_failure(first_code, pools, events), false) end
  return finish(command_outcome(pools, events, {}), changed)
end

return run(decide)
