-- uses: layout msgpack call pool deduct holding calendar
-- lazy: plans
-- Attaching and detaching plans (messages: plan.attach, plan.detach; semantics: Prepaid).

-- A balance of a plan item granted so many times, anchored at its plan's start, with its first
-- reset after from.
local function new_balance(c, plan_id, rank, item, shared, started, from, quantity, times)
  local prepaid = max(0, quantity)
  local included = min(item[I.included] * times, LIMIT.max - prepaid)
  return {
    included, included, next_reset(started, item[I.unit], item[I.count], from), 0, flags_of(item, shared), '',
    prepaid, 0, 0, prepaid, item[I.max], '', 0,
    details = {
      plan_id, item[I.number], rank, next_seq(c), started, item[I.unit], item[I.count],
      item[I.rollover_max], item[I.rollover_months], times, 0,
    },
  }
end

-- Adds a balance to an owner's. Returns an error code, or nil.
local function add_balance(c, owner, feature, b)
  local list = balances_held(owner, feature)
  if #list >= LIMIT.balances then return 'too_many_balances' end
  list[#list + 1] = b
  put_held(c, owner, feature, list)
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

-- Less was bought: what is left of it goes first, then what is left of the rest; what was consumed
-- stays consumed, if need be beyond the grant.
local function lower_prepaid(b, amount)
  local from_prepaid = min(b[B.prepaid_left], amount)
  local from_included = min(b[B.included_left], amount - from_prepaid)
  b[B.prepaid] = b[B.prepaid] - amount
  b[B.prepaid_left] = b[B.prepaid_left] - from_prepaid
  b[B.included_left] = b[B.included_left] - from_included
  b[B.over] = b[B.over] + amount - from_prepaid - from_included
end

-- Plans are attached to an owner for a scope of holders: the owner itself, and with the customer its entities;
-- where these are many, first the customer alone and then its entities one by one (JOB).

local function in_scope(scope, owner) return scope[1] == owner end

-- Who of a scope holds balances of an item of a plan attached to owner: {holder, shared (0 or 1)} pairs.
local function holders_of(c, item, owner, scope)
  if item[I.seats] == '' or owner ~= c then return in_scope(scope, owner) and { { owner, 0 } } or NOTHING end
  local holders = {}
  for _, holder in ipairs(scope) do
    if holder ~= c and values_of(holder.v[E.about])[1] == item[I.seats] then holders[#holders + 1] = { holder, 1 } end
  end
  return holders
end

-- Whether a balance that holder holds was made by a plan attached to owner.
local function is_of_plan(c, b, plan_id, owner, holder)
  return b.details[D.plan] == plan_id and is_shared(b, 0) == (owner == c and holder ~= c)
end

-- Takes a plan's balances away. Returns what those of features that are kept have used, {feature, holder, amount}
-- each; or nil and an error code.
local function remove_balances(c, owner, plan_id, kept_features, scope)
  local used, is_kept = {}, {}
  for _, feature in ipairs(kept_features) do is_kept[feature] = true end
  for _, holder in ipairs(scope) do
    for i = C.pools, #holder.v, 2 do
      local feature, kept, usage = holder.v[i], {}, 0
      local list = is_ledger(feature) and NOTHING or balances_held(holder, feature)
      for _, b in ipairs(list) do
        if is_of_plan(c, b, plan_id, owner, holder) then usage = usage + usage_of(b, 0) else kept[#kept + 1] = b end
      end
      if #kept < #list then put_held(c, holder, feature, kept) end
      if usage > 0 and is_kept[feature] then
        if usage > LIMIT.max then return nil, 'amount_out_of_range' end
        used[#used + 1] = { feature, holder, usage }
      end
    end
  end
  return used
end

-- Takes a plan, and its flags, off the list.
local function remove_plan(owner, plan_id)
  local plans, flags = plans_of(owner)
  local kept_plans, kept_flags = {}, {}
  for _, plan in ipairs(plans) do
    if plan[P.id] ~= plan_id then kept_plans[#kept_plans + 1] = plan end
  end
  for _, flag in ipairs(flags) do
    if flag[F.plan] ~= plan_id then kept_flags[#kept_flags + 1] = flag end
  end
  put_plans(owner, kept_plans, kept_flags)
end

-- Puts usage that lost its balances onto those of its feature that the same holder has: on the new plan's
-- (item after item, the rest beyond the grant), or if it has none there on any. Returns an error code, or nil.
local function move_usage(c, owner, used, plan_id)
  for _, one in ipairs(used) do
    local feature, holder, amount = one[1], one[2], one[3]
    local function of_new(b) return plan_id and is_of_plan(c, b, plan_id, owner, holder) end
    local list, wanted = balances_held(holder, feature), function() return true end
    for _, b in ipairs(list) do
      if of_new(b) then wanted = of_new end
    end
    if #list > 0 then
      local view, put = view_of_some(c, holder, feature, wanted)
      deduct(view, amount, true)
      if not put() then return 'amount_out_of_range' end
    end
  end
end

local function create_balances(c, owner, plan, started, scope)
  for i, item in ipairs(plan[PLAN.items]) do
    local feature = item[I.feature]
    if item[I.flag] == 1 then
      if in_scope(scope, owner) then
        local plans, flags = plans_of(owner)
        flags[#flags + 1] = { feature, plan[PLAN.id], 0 }
        put_plans(owner, plans, flags)
      end
    else
      for _, holder in ipairs(holders_of(c, item, owner, scope)) do
        local b = new_balance(c, plan[PLAN.id], plan[PLAN.rank], item, holder[2], started, started, plan[PLAN.quantities][i], 1)
        local code = add_balance(c, holder[1], feature, b)
        if code then return code end
        pool_of(holder[1], feature) -- what is due already is applied
      end
    end
  end
end

-- What attaching again changes of a balance: a one-off add-on adds its grants, any other plan takes the
-- quantities that were given. nil where the item is not concerned.
local function change_of(plan, i)
  local item, quantity = plan[PLAN.items][i], plan[PLAN.quantities][i]
  if item[I.flag] == 1 then return nil end
  if plan[PLAN.one_off] == 1 then
    return function(b)
      raise(b, item[I.included], max(0, quantity))
      b.details[D.times] = b.details[D.times] + 1
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

-- Changes the balances of a plan that is attached again. Returns an error code, or nil.
local function change_balances(c, owner, plan, started, scope)
  for i, item in ipairs(plan[PLAN.items]) do
    local change = change_of(plan, i)
    if change then
      local feature = item[I.feature]
      for _, holder in ipairs(holders_of(c, item, owner, scope)) do
        local list, found = balances_held(holder[1], feature), 0
        for _, b in ipairs(list) do
          if is_of_plan(c, b, plan[PLAN.id], owner, holder[1]) and b.details[D.id] == item[I.number] then
            found = found + 1
            change(b)
            if b[B.included] + b[B.prepaid] > LIMIT.max or usage_of(b, 0) > LIMIT.max then return 'amount_out_of_range' end
          end
        end
        if found > 0 then
          put_held(c, holder[1], feature, list)
        elseif plan[PLAN.one_off] == 1 then
          local code = add_balance(c, holder[1], feature,
            new_balance(c, plan[PLAN.id], plan[PLAN.rank], item, holder[2], started, started, plan[PLAN.quantities][i], 1))
          if code then return code end
        end
      end
    end
  end
end

-- What a plan that is attached, or detached, means for the balances of a scope: those of removed, a plan's id or
-- '', go, those of plan come (nil for none), what was used moves. Returns an error code, or nil.
local function change_scope(c, owner, removed, plan, again, started, kept_features, scope)
  if again then return change_balances(c, owner, plan, started, scope) end
  local used, code = {}, nil
  if removed ~= '' then
    used, code = remove_balances(c, owner, removed, kept_features, scope)
    if not used then return code end
  end
  code = plan and create_balances(c, owner, plan, started, scope)
  return code or move_usage(c, owner, used, plan and plan[PLAN.id])
end

local function has_seats(plan)
  for _, item in ipairs(plan and plan[PLAN.items] or NOTHING) do
    if item[I.seats] ~= '' then return true end
  end
  return false
end

-- Changes the balances of owner and, if it is the customer, of its entities; of these later where they are many.
-- Returns an error code, or nil; and whether a job is left.
local function change_all(c, owner, removed, plan, again, started, kept_features)
  local concerns_entities = owner == c and (c.v[C.shared] ~= '' or has_seats(plan)) and how_many_entities(c) > 0
  local scope, is_job = { owner }, concerns_entities and how_many_entities(c) > LIMIT.visits
  if concerns_entities and not is_job then
    each_entity(c, function(entity) scope[#scope + 1] = entity end)
  end
  local code = change_scope(c, owner, removed, plan, again, started, kept_features, scope)
  if code or not is_job then return code end
  put_job(c, c.v[C.entities][3], c.v[C.entities][1], removed, plan or {}, again and 1 or 0, started, kept_features)
  return nil, true
end

-- Attaches a plan to an owner. kept_features are those whose usage outlives a plan. Returns an error
-- code, or nil; and whether a job is left.
local function attach(c, owner, plan, started, kept_features)
  local plans, flags = plans_of(owner)
  for _, attached in ipairs(plans) do
    if attached[P.id] == plan[PLAN.id] then
      note_bought(plan, attached)
      if plan[PLAN.one_off] == 1 then attached[P.times] = attached[P.times] + 1 end
      put_plans(owner, plans, flags)
      return change_all(c, owner, '', plan, true, started, kept_features)
    end
  end
  local removed = ''
  for _, attached in ipairs(plans) do
    if plan[PLAN.rank] == RANK.main and attached[P.rank] == RANK.main and attached[P.group] == plan[PLAN.group] then removed = attached[P.id] end
  end
  if removed ~= '' then remove_plan(owner, removed) end
  local attached = { plan[PLAN.id], plan[PLAN.group], plan[PLAN.rank], started, {}, 1 }
  note_bought(plan, attached)
  plans, flags = plans_of(owner)
  plans[#plans + 1] = attached
  put_plans(owner, plans, flags)
  return change_all(c, owner, removed, plan, false, started, kept_features)
end

-- Detaches a plan from an owner. Returns as attach does.
local function detach(c, owner, plan_id, kept_features)
  remove_plan(owner, plan_id)
  return change_all(c, owner, plan_id, nil, false, 0, kept_features)
end
