-- Pools: the live balances that one check may draw from (semantics: Which balances
-- are in the pool, Allowed or not, Deduction order).
--
-- An owner is whose balances they are (OWNER), its entity '' for the customer. A pool (POOL) has
-- the balances in deduction order in list; list[i] is balance place_of[i] of owner owner_of[i].
local function balances_field(feature, entity)
  if entity == '' then return 'b' .. feature end
  return 'B' .. #feature .. ':' .. feature .. entity
end

-- The id that a user knows a balance by.
local function balance_id(b, feature, entity)
  if b[B.plan] == '' then return b[B.id] end
  local number = b[B.id] > 1 and '#' .. b[B.id] or ''
  return b[B.plan] .. '/' .. feature .. number .. (entity ~= '' and '@' .. entity or '')
end

-- Whether anything of the balance is due at now: an expiry or a reset.
local function is_due(b, now)
  if b[B.resets] > 0 and b[B.resets] <= now then return true end
  if b[B.expires] > 0 and b[B.expires] <= now then return true end
  local rollovers = b[B.rollovers]
  for i = 1, #rollovers do
    local expires = rollovers[i][R.expires]
    if expires > 0 and expires <= now then return true end
  end
  return false
end

-- Average length of a balance's period.
local function period_ms(b)
  local AVERAGE_MS = { 60000, 3600000, 86400000, 604800000, 2629746000, 7889238000, 15778476000, 31556952000 }
  local average = AVERAGE_MS[b[B.unit]]
  return average and average * b[B.count] or math.huge -- it never resets
end

-- The order of one owner's balances, which they are stored in.
local function deducted_before(a, b)
  if a[B.unlimited] ~= b[B.unlimited] then return a[B.unlimited] > b[B.unlimited] end
  local a_period, b_period = period_ms(a), period_ms(b)
  if a_period ~= b_period then return a_period < b_period end
  if a[B.expires] ~= b[B.expires] then
    if a[B.expires] == 0 or b[B.expires] == 0 then return b[B.expires] == 0 end
    return a[B.expires] < b[B.expires]
  end
  if a[B.rank] ~= b[B.rank] then return a[B.rank] < b[B.rank] end
  if a[B.overage] ~= b[B.overage] then return a[B.overage] < b[B.overage] end
  return a[B.seq] < b[B.seq]
end

local function is_shared(b) return b[B.shared] == 1 end
local function holds_shared(balances)
  for _, b in ipairs(balances) do
    if is_shared(b) then return true end
  end
  return false
end

-- Takes the details of a balance apart.
local function complete(b)
  if b[B.details] == '' then return end
  local details = unpacked(b[B.details])
  for i = 1, #details do b[B.details + i] = details[i] end
  b[B.details] = ''
end
local function complete_all(balances)
  for i = 1, #balances do complete(balances[i]) end
end
local function pack_balances(balances)
  local packed = {}
  for i = 1, #balances do
    local b = balances[i]
    if b[B.details] == '' then
      local fields = { unpack(b, 1, B.rollovers) }
      fields[B.details] = pack({ unpack(b, B.plan, B.added) })
      b = fields
    end
    packed[i] = b
  end
  return pack(packed)
end

-- Reads an owner's balances from what the hash holds: the expired are gone, resets due
-- are applied.
local function read_owner(feature, entity, packed)
  local balances = packed and unpacked(packed) or {}
  local owner = { entity, balances_field(feature, entity), packed, balances, false, entity ~= '' and holds_shared(balances) }
  local due = false
  for i = 1, #balances do due = due or is_due(balances[i], now) end
  if not due then return owner end
  complete_all(balances)
  local settle_balance = calendar()
  owner[OWNER.balances] = {}
  for _, b in ipairs(balances) do
    if b[B.expires] == 0 or b[B.expires] > now then
      settle_balance(b, feature, now, items)
      owner[OWNER.balances][#owner[OWNER.balances] + 1] = b
    end
  end
  table.sort(owner[OWNER.balances], deducted_before)
  owner[OWNER.changed] = true
  return owner
end

-- Writes back what changed. Invariant: n<feature> is the number of entities with a
-- shared balance, so that a customer without any never pays for looking.
local function write_owner(feature, owner)
  if not owner[OWNER.changed] then return end
  owner[OWNER.changed] = false
  if #owner[OWNER.balances] == 0 then
    owner[OWNER.packed] = false
    drop(owner[OWNER.field])
  else
    owner[OWNER.packed] = pack_balances(owner[OWNER.balances])
    put(owner[OWNER.field], owner[OWNER.packed])
  end
  local holds = owner[OWNER.entity] ~= '' and holds_shared(owner[OWNER.balances])
  if owner[OWNER.had_shared] ~= holds then
    increase('n' .. feature, holds and 1 or -1)
    owner[OWNER.had_shared] = holds
  end
end

local function write_owners(pool)
  for i = 1, #pool[POOL.owners] do write_owner(pool[POOL.feature], pool[POOL.owners][i]) end
end

local function new_pool(feature) return { feature, {}, {}, {}, {}, 0, '', false } end

-- Adds an owner with those of its balances that are wanted, all of them where wanted is nil.
local function add_owner(pool, owner, wanted)
  local n, list, balances = #pool[POOL.owners] + 1, pool[POOL.list], owner[OWNER.balances]
  pool[POOL.owners][n] = owner
  for place = 1, #balances do
    local b = balances[place]
    if not wanted or wanted(b) then
      local i = #list + 1
      list[i], pool[POOL.owner_of][i], pool[POOL.place_of][i] = b, n, place
    end
  end
end

-- Reads the pool of a feature as the customer (entity '') or an entity sees it.
-- own, entity_own: the packed balances of the customer and of the entity; shared: n<feature>.
local function read_pool(feature, entity, own, entity_own, shared)
  local pool = new_pool(feature)
  if entity ~= '' then add_owner(pool, read_owner(feature, entity, entity_own)) end
  add_owner(pool, read_owner(feature, '', own))
  if entity == '' and shared and tonumber(shared) > 0 then
    for _, id in ipairs(call('ZRANGE', entities, 0, -1)) do
      local packed = get(balances_field(feature, id))
      if packed then add_owner(pool, read_owner(feature, id, packed), is_shared) end
    end
  end
  return pool
end

-- Decides need against the pool: a code, and whether it is allowed.
local function decide(pool, need)
  local list = pool[POOL.list]
  if #list == 0 then return 'not_entitled', false end
  local available, bounded_by, unbounded, may_overage = 0, 0, false, false
  for i = 1, #list do
    local b = list[i]
    if b[B.unlimited] == 1 then return 'unlimited', true end
    available = available + b[B.included_left] + b[B.prepaid_left]
    local rollovers = b[B.rollovers]
    for j = 1, #rollovers do available = available + rollovers[j][R.left] end
    if b[B.overage] == 1 then
      may_overage = true
      if b[B.max] < 0 then unbounded = true else bounded_by = bounded_by + max(0, b[B.max] - b[B.over]) end
    end
  end
  if need <= 0 or available >= need then return 'included', true end
  if not may_overage then return 'insufficient_balance', false end
  if unbounded or need - available <= bounded_by then return 'overage', true end
  return 'max_purchase_reached', false
end
