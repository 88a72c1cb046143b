-- check: may the customer use the feature now, and if so, take it off the balance.
-- uses: fields msgpack step ledger outcome run calendar pool deduct choose
--
-- KEYS, ARGV, returns: see lib/step.lua. The outcome is kept only with send_event.
-- args[1] the entity, '' for the customer
-- args[2] 1: take the amount off the balance (send_event), 0: do not, or <code>: <message>
--         to answer with unless the record was decided before (a deadline that has passed)
-- args[3] 1: add the plans attached to a denial (with_preview)
-- args[4] the feature, where it is boolean, '' otherwise
-- args[5..] candidates, see lib/choose.lua
--
-- Outcome: mark, code, now, need, snapshot, lines, amount, flag, plans.
-- Invariant: a denial deducts nothing, an allowed check with send_event all of need.
local NO_POOL, NONE = { '' }, {}
deferred = {}

local function attached_plans(entity)
  local attached = {}
  for _, field in ipairs(entity == '' and { 'p' } or { 'p', 'P' .. entity }) do
    local packed = call('HGET', customer, field)
    for _, plan in ipairs(packed and unpacked(packed) or {}) do attached[#attached + 1] = plan[P.id] end
  end
  return attached
end

local function failure(code) return finish(pack(MARK.decided, code, now, 0, NO_POOL, NONE, 0, NONE, NONE), false) end

local function decide_flag(feature, entity, raw)
  local own, entity_own, entity_record = raw[2], raw[3], raw[4]
  if call('HEXISTS', customer, 'c') == 0 then return failure(no_customer()) end
  if entity ~= '' and not entity_record then return failure('entity_not_found') end
  if args[2] == 1 then return failure('flag_not_consumable') end
  for _, packed in ipairs({ own or '', entity_own or '' }) do
    for _, flag in ipairs(packed ~= '' and unpacked(packed) or {}) do
      if flag[F.expires] == 0 or flag[F.expires] > now then
        return finish(pack(MARK.decided, 'flag', now, 0, NO_POOL, NONE, 0, flag, NONE), false)
      end
    end
  end
  local plans = args[3] == 1 and attached_plans(entity) or NONE
  return finish(pack(MARK.decided, 'not_entitled', now, 0, NO_POOL, NONE, 0, NONE, plans), false)
end

local function decide_pool(entity, deducting, raw)
  local pool, code = choose(entity, args, 5, raw, 2)
  if not pool then return failure(code) end
  if not pool[POOL.need] then return failure(pool[POOL.code]) end
  local lines, amount = NONE, 0
  if pool[POOL.allowed] and deducting then
    lines, amount = apply(pool, pool[POOL.need])
    if not lines then return failure('amount_out_of_range') end
  end
  local plans = not pool[POOL.allowed] and args[3] == 1 and attached_plans(entity) or NONE
  local snapshot = #pool[POOL.list] > 0 and pool_snapshot(pool) or { pool[POOL.feature] }
  return finish(pack(MARK.decided, pool[POOL.code], now, pool[POOL.need], snapshot, lines, amount, NONE, plans), #lines > 0)
end

return each_step(function()
  local entity, mode, feature = args[1], args[2], args[4]
  local fields = { last_field }
  if feature ~= '' then
    fields[2] = 'f' .. feature
    if entity ~= '' then fields[3], fields[4] = 'F' .. #feature .. ':' .. feature .. entity, 'e' .. entity end
  else
    pool_fields(fields, entity, args, 5)
  end
  local raw = read(fields)
  local seen = begin(raw[1])
  if seen then return seen end
  if mode ~= 0 and mode ~= 1 then return failure(mode) end
  if feature ~= '' then return decide_flag(feature, entity, raw) end
  return decide_pool(entity, mode == 1, raw)
end)
