-- Which pool (semantics). Candidates are pairs in a list, from a place on: a feature and
-- the need in its units, the feature's own pool first, then the credit systems that cover
-- it in the catalogue's order. A need of '!' does not fit: such a pool allows nothing.

-- Adds the fields of the customer that choose looks at.
local function pool_fields(fields, entity, candidates, from)
  for i = from, #candidates, 2 do
    local feature, n = candidates[i], #fields
    fields[n + 1] = 'b' .. feature
    fields[n + 2] = entity == '' and 'n' .. feature or balances_field(feature, entity)
  end
  if entity ~= '' then fields[#fields + 1] = 'e' .. entity end
end

-- Returns the pool, with its need, code and whether it is allowed; or nil and an error code
-- where there is no such customer or entity. raw are the values of those fields, from a place
-- on, where the caller has read them.
local function choose(entity, candidates, from, raw, raw_from)
  if not raw then
    local fields = {}
    pool_fields(fields, entity, candidates, from)
    raw, raw_from = read(fields), 1
  end
  local found = false
  for i = raw_from, #raw do found = found or raw[i] end
  if not found and call('HEXISTS', customer, 'c') == 0 then return nil, no_customer() end
  if entity ~= '' and not raw[#raw] then return nil, 'entity_not_found' end

  local reported, reports_credits
  for i = from, #candidates, 2 do
    local own, second = raw[i - from + raw_from], raw[i - from + raw_from + 1]
    local entity_own, shared = entity ~= '' and second, entity == '' and second
    local pool = read_pool(candidates[i], entity, own, entity_own, shared)
    pool[POOL.need] = tonumber(candidates[i + 1])
    write_owners(pool)
    if pool[POOL.need] then
      pool[POOL.code], pool[POOL.allowed] = decide(pool, pool[POOL.need])
    else
      pool[POOL.code], pool[POOL.allowed] = 'amount_out_of_range', false
    end
    if pool[POOL.allowed] then return pool end
    -- For the denial: the first credit system that the customer has, else the own pool.
    if i == from or (#pool[POOL.list] > 0 and not reports_credits) then
      reported, reports_credits = pool, i > from
    end
  end
  return reported
end

-- A pool as an outcome bears it: {feature, and of each owner the entity and the packed
-- balances}.
local function pool_snapshot(pool)
  local snapshot, owners = { pool[POOL.feature] }, pool[POOL.owners]
  for i = 1, #owners do
    snapshot[2 * i], snapshot[2 * i + 1] = owners[i][OWNER.entity], owners[i][OWNER.packed] or ''
  end
  return snapshot
end

-- Takes need off the pool, or gives back where it is negative, and writes it. Returns
-- the lines and the amount; nil where an amount would not fit, and nothing is written.
local function apply(pool, need, force)
  local lines, total
  if need < 0 then
    lines, total = give_back(pool, -need)
  elseif need > 0 then
    lines, total = deduct(pool, need, force)
  else
    return {}, 0
  end
  if not fits(pool) then return nil end
  write_owners(pool)
  return lines, total
end
