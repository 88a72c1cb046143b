-- check: may the customer use the feature now, and if so, take it off the balance.
-- uses: fields msgpack ledger outcome express calendar pool deduct choose
--
-- KEYS, ARGV 1..10, returns: see lib/outcome.lua. The outcome is kept only with send_event.
-- ARGV[11] the entity, '' for the customer
-- ARGV[12] 1: take the amount off the balance (send_event), 0: do not, or <code>: <message>
--          to answer with unless the record was decided before (a deadline that has passed)
-- ARGV[13] 1: add the plans attached to a denial (with_preview)
-- ARGV[14] the feature, where it is boolean, '' otherwise
-- ARGV[15..] candidates, see lib/choose.lua
--
-- Outcome: {mark, code, now, need, snapshot, lines, amount, flag, plans}.
-- Invariant: a denial deducts nothing, an allowed check with send_event all of need.
local entity, mode, previewing, flag_feature = ARGV[11], ARGV[12], ARGV[13] == '1', ARGV[14]
local deducting = mode == '1'

local NO_POOL = { '', {} }

local function attached_plans()
  local attached = {}
  for _, field in ipairs(entity == '' and { 'p' } or { 'p', 'P' .. entity }) do
    local packed = redis.call('HGET', KEYS[1], field)
    for _, plan in ipairs(packed and cmsgpack.unpack(packed) or {}) do attached[#attached + 1] = plan[P.id] end
  end
  return attached
end

local function failure(code) return { MARK.decided, code, now, 0, NO_POOL, {}, 0, {}, {} } end

local function check_flag()
  local fields = { 'f' .. flag_feature }
  if entity ~= '' then
    fields[2] = 'F' .. #flag_feature .. ':' .. flag_feature .. entity
    fields[3] = 'e' .. entity
  end
  local raw = redis.call('HMGET', KEYS[1], unpack(fields))
  if redis.call('HEXISTS', KEYS[1], 'c') == 0 then return failure('customer_not_found') end
  if entity ~= '' and not raw[3] then return failure('entity_not_found') end
  if deducting then return failure('flag_not_consumable') end
  for i = 1, 2 do
    for _, flag in ipairs(raw[i] and cmsgpack.unpack(raw[i]) or {}) do
      if flag[F.expires] == 0 or flag[F.expires] > now then
        return { MARK.decided, 'flag', now, 0, NO_POOL, {}, 0, flag, {} }
      end
    end
  end
  local denial = failure('not_entitled')
  if previewing then denial[9] = attached_plans() end
  return denial
end

local function check_pool()
  local pool, code = choose(entity, ARGV, 15)
  if not pool then return failure(code) end
  if not pool.need then return failure(pool.code) end
  local lines, amount = {}, 0
  if pool.allowed and deducting then
    lines, amount = apply(pool, pool.need)
    if not lines then return failure('amount_out_of_range') end
  end
  local plans = not pool.allowed and previewing and attached_plans() or {}
  local snapshot = #pool.list > 0 and pool_snapshot(pool) or { pool.feature, {} }
  return { MARK.decided, pool.code, now, pool.need, snapshot, lines, amount, {}, plans }
end

local outcome
if mode ~= '0' and mode ~= '1' then
  outcome = failure(mode)
elseif flag_feature ~= '' then
  outcome = check_flag()
else
  outcome = check_pool()
end
return finish(outcome, #outcome[6] > 0)
