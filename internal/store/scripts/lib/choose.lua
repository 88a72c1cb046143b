-- Which pool (semantics). Candidates are pairs in a list, from a place on: a feature and
-- the need in its units, the feature's own pool first, then the credit systems that cover
-- it in the catalogue's order. A need of '!' does not fit: such a pool allows nothing.
--
-- Returns the pool with .need, .code and .allowed set; or nil and an error code where
-- there is no such customer or entity.
local function choose(entity, pairs_list, at)
  local customer, fields = KEYS[1], {}
  for i = at, #pairs_list, 2 do
    local feature, n = pairs_list[i], #fields
    fields[n + 1] = 'b' .. feature
    fields[n + 2] = entity == '' and 'n' .. feature or balances_field(feature, entity)
  end
  if entity ~= '' then fields[#fields + 1] = 'e' .. entity end
  local raw = redis.call('HMGET', customer, unpack(fields))

  local found = false
  for i = 1, #raw do found = found or raw[i] end
  if not found and redis.call('HEXISTS', customer, 'c') == 0 then return nil, 'customer_not_found' end
  if entity ~= '' and not raw[#fields] then return nil, 'entity_not_found' end

  local reported, reports_credits
  for i = at, #pairs_list, 2 do
    local own, second = raw[i - at + 1], raw[i - at + 2]
    local entity_own, shared = entity ~= '' and second, entity == '' and second
    local pool = read_pool(customer, KEYS[2], pairs_list[i], entity, own, entity_own, shared, now, items)
    pool.need = tonumber(pairs_list[i + 1])
    write_owners(pool)
    if pool.need then
      pool.code, pool.allowed = decide(pool, pool.need)
    else
      pool.code, pool.allowed = 'amount_out_of_range', false
    end
    if pool.allowed then return pool end
    -- For the denial: the first credit system that the customer has, else the own pool.
    if i == at or (#pool.list > 0 and not reports_credits) then
      reported, reports_credits = pool, i > at
    end
  end
  return reported
end

-- A pool as an outcome bears it: {feature, owners}, an owner {entity, packed balances}.
local function pool_snapshot(pool)
  local owners = {}
  for i = 1, #pool.owners do
    local owner = pool.owners[i]
    owners[i] = { owner.entity, owner.packed or '' }
  end
  return { pool.feature, owners }
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
