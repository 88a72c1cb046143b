-- What the scripts of commands share: their step, their outcome, and a customer's state to
-- work on.
--
-- Outcome: mark, code, now, snapshots, events, extra; code is '' where the command was
-- carried out, <code> or <code>: <message> where it was not. An event: {feature asked, its
-- units asked, code, amount, snapshot, lines}.
local function run(decide)
  return each_step(function() return begin(get(last_field)) or decide() end)
end

local function snapshots_of(pools)
  local list = {}
  for i, pool in ipairs(pools) do list[i] = pool_snapshot(pool) end
  return list
end
local function command_outcome(pools, events, extra)
  return pack(MARK.decided, '', now, snapshots_of(pools), events, extra)
end
local function command_failure(code, pools, events)
  return pack(MARK.decided, code, now, snapshots_of(pools or {}), events or {}, {})
end

-- Whose balances of a feature they are, as they stand.
local function read_owner_now(feature, entity)
  local packed = call('HGET', customer, balances_field(feature, entity))
  local owner = read_owner(feature, entity, packed)
  complete_all(owner[OWNER.balances])
  return owner
end

-- The pool of a feature as it stands, for the answer.
local function current_pool(feature, entity)
  local raw = call('HMGET', customer, 'b' .. feature, balances_field(feature, entity), 'n' .. feature)
  local entity_own, shared = entity ~= '' and raw[2], entity == '' and raw[3]
  local pool = read_pool(feature, entity, raw[1], entity_own, shared)
  write_owners(pool)
  complete_all(pool[POOL.list])
  return pool
end

-- Every pool that has a balance in it, as the customer or an entity sees it.
local function current_pools(entity)
  local features, pools = {}, {}
  for _, field in ipairs(call('HKEYS', customer)) do
    local kind = string.sub(field, 1, 1)
    if kind == 'b' or (kind == 'n' and entity == '') then
      features[string.sub(field, 2)] = true
    elseif kind == 'B' and entity ~= '' then
      local length, start = match(field, '^B(%d+):()')
      local feature = string.sub(field, start, start + length - 1)
      if string.sub(field, start + length) == entity then features[feature] = true end
    end
  end
  for feature in pairs(features) do
    local pool = current_pool(feature, entity)
    if #pool[POOL.list] > 0 then pools[#pools + 1] = pool end
  end
  return pools
end

local function read_list(field) -- a packed list of the hash, empty where there is none
  local packed = call('HGET', customer, field)
  return packed and unpacked(packed) or {}
end
local function store_list(field, list)
  if #list == 0 then
    call('HDEL', customer, field)
  else
    call('HSET', customer, field, pack(list))
  end
end

-- The customer's record, nil where there is none.
local function read_customer()
  local packed = call('HGET', customer, 'c')
  return packed and unpacked(packed) or nil
end
local function write_customer(record) call('HSET', customer, 'c', pack(record)) end
local function next_seq(record)
  record[C.seq] = record[C.seq] + 1
  return record[C.seq]
end

local function entity_exists(entity) return call('HEXISTS', customer, 'e' .. entity) == 1 end
