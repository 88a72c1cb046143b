-- track: usage without asking (semantics: Usage without asking).
-- uses: fields msgpack ledger calendar pool deduct outcome choose command
--
-- KEYS, ARGV 1..10, returns: see lib/outcome.lua.
-- ARGV[11] the entity, '' for the customer
-- ARGV[12] what to do where not all of it is allowed: cap, reject or allow
-- ARGV[13] packed list, an entry per feature: its candidates, see lib/choose.lua
--
-- Outcome: see lib/command.lua; an event per feature, deducted from or not.
-- Invariant: each feature is a step of its own; reject takes all of it or nothing, cap
-- never passes a bound.
local entity, behaviour, features = ARGV[11], ARGV[12], cmsgpack.unpack(ARGV[13])

local seen = begin()
if seen then return seen end

local events, pools, tracked, changed, first_code = {}, {}, false, false, nil
for _, candidates in ipairs(features) do
  local pool, code = choose(entity, candidates, 1)
  if not pool then return finish(command_failure(code), false) end
  local lines, amount = {}, 0
  local refused = not pool.need or pool.code == 'not_entitled' or (behaviour == 'reject' and not pool.allowed)
  if not refused then
    lines, amount = apply(pool, pool.need, behaviour == 'allow')
    if not lines then
      refused, pool.code, lines, amount = true, 'amount_out_of_range', {}, 0
      pool = current_pool(pool.feature, entity)
      pool.code = 'amount_out_of_range'
    end
  end
  if refused then first_code = first_code or pool.code else tracked = true end
  changed = changed or #lines > 0
  pools[#pools + 1] = pool
  events[#events + 1] = { candidates[1], candidates[2], refused and pool.code or '', amount, pool_snapshot(pool), lines }
end
if not tracked then return finish(command_failure(first_code, pools, events), false) end
return finish(command_outcome(pools, events, {}), changed)
