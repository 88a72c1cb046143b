-- Attaching and detaching plans (messages: plan.attach, plan.detach; semantics: Prepaid).
--
-- A plan comes from the catalogue as {id, group, rank, one_off, items, quantities}:
-- items a list of I, quantities the units bought of each item, -1 where nothing was said.
local PLAN = { id = 1, group = 2, rank = 3, one_off = 4, items = 5, quantities = 6 }

local function plans_field(entity) return entity == '' and 'p' or 'P' .. entity end
local function flags_field(feature, entity)
  if entity == '' then return 'f' .. feature end
  return 'F' .. #feature .. ':' .. feature .. entity
end

local function add_balance(feature, owner, b)
  owner[OWNER.balances][#owner[OWNER.balances] + 1] = b
  table.sort(owner[OWNER.balances], deducted_before)
  owner[OWNER.changed] = true
  write_owner(feature, owner)
end

-- A balance of a plan item granted so many times, anchored at its plan's start, with its
-- first reset after from.
local function new_balance(record, plan_id, rank, item, shared, started, from, quantity, times)
  local _, next_reset = calendar()
  local prepaid = max(0, quantity)
  local included = min(item[I.included] * times, LIMIT.max - prepaid)
  return {
    included, prepaid, 0, 0,
    next_reset(started, item[I.unit], item[I.count], from), 0, item[I.unlimited],
    shared, item[I.overage], item[I.max], {}, '',
    plan_id, item[I.number], rank, next_seq(record), started, item[I.unit], item[I.count],
    included, prepaid, item[I.rollover_max], item[I.rollover_months], times, 0,
  }
end

-- More is granted: what was consumed beyond the grant is covered first.
local function raise(b, included, prepaid)
  for _, part in ipairs({ { B.included, B.included_left, included }, { B.prepaid, B.prepaid_left, prepaid } }) do
    local total, left, amount = part[1], part[2], part[3]
    local covered = min(b[B.over], amount)
    b[total] = b[total] + amount
    b[B.over] = b[B.over] - covered
    b[left] = b[left] + amount - covered
  end
end

-- Less was bought: what is left of it goes first, then what is left of the rest; what
-- was consumed stays consumed, if need be beyond the grant.
local function lower_prepaid(b, amount)
  local from_prepaid = min(b[B.prepaid_left], amount)
  local from_included = min(b[B.included_left], amount - from_prepaid)
  b[B.prepaid] = b[B.prepaid] - amount
  b[B.prepaid_left] = b[B.prepaid_left] - from_prepaid
  b[B.included_left] = b[B.included_left] - from_included
  b[B.over] = b[B.over] + amount - from_prepaid - from_included
end

-- The entities that a per-entity item gives a balance to, in order of creation.
local function seat_holders(seats)
  local holders = {}
  for _, id in ipairs(call('ZRANGE', entities, 0, -1)) do
    local packed = call('HGET', customer, 'e' .. id)
    if unpacked(packed)[E.feature] == seats then holders[#holders + 1] = id end
  end
  return holders
end

-- Whom the balances of an item belong to: {entity, shared} pairs.
local function holders_of(item, entity)
  if item[I.seats] == '' or entity ~= '' then return { { entity, 0 } } end
  local holders = {}
  for i, id in ipairs(seat_holders(item[I.seats])) do holders[i] = { id, 1 } end
  return holders
end

local function is_of_plan(b, plan_id, entity, owner_entity)
  return b[B.plan] == plan_id and (b[B.shared] == 1) == (entity == '' and owner_entity ~= '')
end

-- Visits those who may hold balances of a plan attached to entity, feature by feature.
local function each_owner(attached, entity, visit)
  local owners = { entity }
  if entity == '' then
    for _, id in ipairs(call('ZRANGE', entities, 0, -1)) do owners[#owners + 1] = id end
  end
  for _, feature in ipairs(attached[P.features]) do
    for _, owner_entity in ipairs(owners) do visit(feature, owner_entity, read_owner_now(feature, owner_entity)) end
  end
end

-- The usage of a plan's balances, by the field of their owner. Returns nil where one does
-- not fit.
local function usage_of_plan(attached, entity)
  local usage, fitting = {}, true
  each_owner(attached, entity, function(_, owner_entity, owner)
    for _, b in ipairs(owner[OWNER.balances]) do
      if is_of_plan(b, attached[P.id], entity, owner_entity) then
        usage[owner[OWNER.field]] = (usage[owner[OWNER.field]] or 0) + usage_of(b)
        fitting = fitting and usage[owner[OWNER.field]] <= LIMIT.max
      end
    end
  end)
  return fitting and usage or nil
end

-- Takes a plan's balances and flags away.
local function remove_plan(attached, entity)
  each_owner(attached, entity, function(feature, owner_entity, owner)
    local kept = {}
    for _, b in ipairs(owner[OWNER.balances]) do
      if not is_of_plan(b, attached[P.id], entity, owner_entity) then kept[#kept + 1] = b end
    end
    owner[OWNER.changed] = owner[OWNER.changed] or #kept < #owner[OWNER.balances]
    owner[OWNER.balances] = kept
    write_owner(feature, owner)
  end)
  for _, feature in ipairs(attached[P.features]) do
    local field, flags = flags_field(feature, entity), {}
    for _, flag in ipairs(read_list(field)) do
      if flag[F.plan] ~= attached[P.id] then flags[#flags + 1] = flag end
    end
    store_list(field, flags)
  end
end

-- Puts usage that moves over onto the balances that the new plan made (item after item,
-- the rest beyond the grant).
local function move_usage(plan_id, entity, feature, owner_entity, amount)
  local owner = read_owner_now(feature, owner_entity)
  local pool = new_pool(feature)
  add_owner(pool, owner, function(b) return is_of_plan(b, plan_id, entity, owner_entity) end)
  if #pool[POOL.list] > 0 then deduct(pool, amount, true) end
  write_owner(feature, owner)
end

local function create_balances(record, plan, entity, started)
  for i, item in ipairs(plan[PLAN.items]) do
    local feature = item[I.feature]
    if item[I.flag] == 1 then
      local field = flags_field(feature, entity)
      local flags = read_list(field)
      flags[#flags + 1] = { plan[PLAN.id], 0 }
      store_list(field, flags)
    else
      for _, holder in ipairs(holders_of(item, entity)) do
        local b = new_balance(record, plan[PLAN.id], plan[PLAN.rank], item, holder[2], started, started, plan[PLAN.quantities][i], 1)
        local owner = read_owner_now(feature, holder[1])
        calendar()(b, feature, now, items)
        add_balance(feature, owner, b)
      end
    end
  end
end

-- Visits the balances of an attached plan's item. Writes them only where dry is false;
-- a dry run tells beforehand whether they would fit. Returns how many there are and an
-- error code or nil.
local function visit_balances(plan, item, entity, dry, visit)
  local feature, found = item[I.feature], 0
  for _, holder in ipairs(holders_of(item, entity)) do
    local owner = read_owner_now(feature, holder[1])
    for _, b in ipairs(owner[OWNER.balances]) do
      if is_of_plan(b, plan[PLAN.id], entity, holder[1]) and b[B.id] == item[I.number] then
        found = found + 1
        visit(b)
        owner[OWNER.changed] = true
        if b[B.included] + b[B.prepaid] > LIMIT.max or usage_of(b) > LIMIT.max then return found, 'amount_out_of_range' end
      end
    end
    if not dry then write_owner(feature, owner) end
  end
  return found
end

-- What attaching again changes of a balance: a one-off add-on adds its grants, any other
-- plan takes the quantities that were given. nil where the item is not concerned.
local function change_of(plan, i)
  local item, quantity = plan[PLAN.items][i], plan[PLAN.quantities][i]
  if item[I.flag] == 1 then return nil end
  if plan[PLAN.one_off] == 1 then
    return function(b)
      raise(b, item[I.included], max(0, quantity))
      b[B.times] = b[B.times] + 1
    end
  end
  if item[I.prepaid] == 0 or quantity < 0 then return nil end
  return function(b)
    local more = quantity - b[B.prepaid]
    if more >= 0 then raise(b, 0, more) else lower_prepaid(b, -more) end
  end
end

-- What was bought of an attached plan's item, 0 where nothing was.
local function bought_of(attached, item)
  for _, row in ipairs(attached[P.bought]) do
    if row[Q.feature] == item[I.feature] and row[Q.number] == item[I.number] then return row[Q.quantity] end
  end
  return 0
end

-- Notes what attaching a plan, once more perhaps, has bought of its items.
local function note_bought(plan, attached)
  local bought = {}
  for i, item in ipairs(plan[PLAN.items]) do
    local before, quantity = bought_of(attached, item), plan[PLAN.quantities][i]
    if plan[PLAN.one_off] == 1 then
      quantity = before + max(0, quantity)
    elseif quantity < 0 then
      quantity = before
    end
    if quantity > 0 then bought[#bought + 1] = { item[I.feature], item[I.number], quantity } end
  end
  attached[P.bought] = bought
end

local function attach_again(record, plan, attached, entity, started)
  for _, dry in ipairs({ true, false }) do
    for i, item in ipairs(plan[PLAN.items]) do
      local change = change_of(plan, i)
      if change then
        local found, code = visit_balances(plan, item, entity, dry, change)
        if code then return code end
        if found == 0 and not dry and plan[PLAN.one_off] == 1 then
          for _, holder in ipairs(holders_of(item, entity)) do
            local quantity = plan[PLAN.quantities][i]
            add_balance(item[I.feature], read_owner_now(item[I.feature], holder[1]),
              new_balance(record, plan[PLAN.id], plan[PLAN.rank], item, holder[2], started, started, quantity, 1))
          end
        end
      end
    end
  end
  note_bought(plan, attached)
  if plan[PLAN.one_off] == 1 then attached[P.times] = attached[P.times] + 1 end
end

-- Attaches a plan to the customer ('') or an entity. Returns an error code, or nil.
local function attach(record, plan, entity, started)
  local field = plans_field(entity)
  local plans, moved = read_list(field), nil
  for i, attached in ipairs(plans) do
    if attached[P.id] == plan[PLAN.id] then
      local code = attach_again(record, plan, attached, entity, started)
      if not code then store_list(field, plans) end
      return code
    end
  end
  for i, attached in ipairs(plans) do
    if plan[PLAN.rank] == 0 and attached[P.rank] == 0 and attached[P.group] == plan[PLAN.group] then
      moved = usage_of_plan(attached, entity)
      if not moved then return 'amount_out_of_range' end
      remove_plan(attached, entity)
      table.remove(plans, i)
      break
    end
  end
  local features, seen = {}, {}
  for _, item in ipairs(plan[PLAN.items]) do
    if not seen[item[I.feature]] then features[#features + 1] = item[I.feature] end
    seen[item[I.feature]] = true
  end
  local attached = { plan[PLAN.id], plan[PLAN.group], plan[PLAN.rank], started, next_seq(record), features, {}, plan[PLAN.one_off], 1 }
  note_bought(plan, attached)
  plans[#plans + 1] = attached
  store_list(field, plans)
  create_balances(record, plan, entity, started)
  local done = {}
  for _, item in ipairs(moved and plan[PLAN.items] or {}) do
    if item[I.kept] == 1 then
      for _, holder in ipairs(holders_of(item, entity)) do
        local balances = balances_field(item[I.feature], holder[1])
        if (moved[balances] or 0) > 0 and not done[balances] then
          done[balances] = true
          move_usage(plan[PLAN.id], entity, item[I.feature], holder[1], moved[balances])
        end
      end
    end
  end
end
