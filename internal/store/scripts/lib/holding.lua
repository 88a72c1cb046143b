-- uses: layout msgpack call pool deduct
-- lazy: plans
-- What an owner has, to be changed: its plans, its balances by themselves.

local function next_seq(c)
  c.v[C.seq], c.changed = c.v[C.seq] + 1, true
  return c.v[C.seq]
end

-- The plans and the flags of an owner; to be put back where they are changed.
local function plans_of(owner)
  if owner.v[C.rest] == '' then return {}, {} end
  return unpack(values_of(owner.v[C.rest]))
end
local function put_plans(owner, plans, flags)
  owner.v[C.rest] = #plans + #flags > 0 and text_of({ plans, flags }) or ''
  owner.changed = true
end

-- The balances of a feature that an owner holds itself, by themselves.
local function balances_held(owner, feature)
  local p = pool_of(owner, feature)
  return p and balances_of(p.s) or {}
end

-- Puts an owner's balances of a feature back.
local function put_held(c, owner, feature, list)
  local p = pool_of(owner, feature)
  if not p then
    local v = owner.v
    v[#v + 1], v[#v + 2] = feature, ''
    p = { s = { 0 }, text = '', place = #v, owner = owner, feature = feature, touched = false }
    owner.pools[feature] = p
  end
  put_balances(p.s, list)
  pool_changed(p)
end

-- A view of some of the balances that an owner holds of a feature, and what puts them back behind a
-- change of it: false where an amount would not fit.
local function view_of_some(c, owner, feature, wanted)
  local list, s = balances_held(owner, feature), { 0 }
  local places = {}
  for k, b in ipairs(list) do
    if wanted(b) then
      places[#places + 1] = k
      for j = 1, B.size do s[#s + 1] = b[j] end
    end
  end
  local view = { feature = feature, parts = { { s = s, owner = owner } }, rollovers = true }
  return view, function()
    for n, k in ipairs(places) do
      local i = POOL.base + (n - 1) * B.size
      if not fits(s, i) then return false end
      for j = 1, B.size do list[k][j] = s[i + j] end
      list[k].details = values_of(list[k][B.details])
    end
    put_held(c, owner, feature, list)
    return true
  end
end
