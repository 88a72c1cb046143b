-- uses: layout msgpack call rollovers calendar
-- lazy: settle
-- Balances by themselves (the values of each as in a pool, from 1 on, and details, the values of D): what is due of them,
-- and their order in a pool.

-- Average length of a period, by UNIT.
local AVERAGE_MS = { 60000, 3600000, 86400000, 604800000, 2629746000, 7889238000, 15778476000, 31556952000 }

-- Whether a balance is deducted before another of the same owner.
local function deducted_before(x, y)
  local x_flags, y_flags = x[B.flags], y[B.flags]
  if x_flags % 2 ~= y_flags % 2 then return x_flags % 2 == FLAG.unlimited end
  local d, e = x.details, y.details
  local x_period = (AVERAGE_MS[d[D.unit]] or math.huge) * d[D.count]
  local y_period = (AVERAGE_MS[e[D.unit]] or math.huge) * e[D.count]
  if x_period ~= y_period then return x_period < y_period end
  local x_expires, y_expires = x[B.expires], y[B.expires]
  if x_expires ~= y_expires then
    if x_expires == 0 or y_expires == 0 then return y_expires == 0 end
    return x_expires < y_expires
  end
  if d[D.rank] ~= e[D.rank] then return d[D.rank] < e[D.rank] end
  local x_overage, y_overage = x_flags >= FLAG.overage, y_flags >= FLAG.overage
  if x_overage ~= y_overage then return y_overage end
  return d[D.seq] < e[D.seq]
end

-- The balances of a pool by themselves, and a pool of such.
local function balances_of(s)
  local list = {}
  for i = POOL.base, #s - 1, B.size do
    local b = { unpack(s, i + 1, i + B.size) }
    b.details = values_of(b[B.details])
    list[#list + 1] = b
  end
  return list
end
local function put_balances(s, list)
  table.sort(list, deducted_before)
  local due, n = math.huge, POOL.base
  for _, b in ipairs(list) do
    b[B.details] = text_of(b.details)
    for j = 1, B.size do s[n + j] = b[j] end
    n = n + B.size
    if b[B.resets] > 0 then due = min(due, b[B.resets]) end
    if b[B.expires] > 0 then due = min(due, b[B.expires]) end
    if b[B.rollovers] ~= '' then
      local expiry = next_expiry(b[B.rollovers])
      if expiry > 0 then due = min(due, expiry) end
    end
  end
  for j = #s, n + 1, -1 do s[j] = nil end
  s[POOL.due] = due < math.huge and due or 0
end

-- Applies what is due of a pool: the expired are gone, resets are applied.
local function settle(p, feature)
  if not rows or (any_feature and a[HEAD.all_rows] == 0) then error(NEEDS_ROWS) end
  local s, live = p.s, {}
  for i = POOL.base, #s - 1, B.size do
    if s[i + B.expires] == 0 or s[i + B.expires] > now then settle_balance(s, i, feature, now, rows) end
  end
  for _, b in ipairs(balances_of(s)) do
    if b[B.expires] == 0 or b[B.expires] > now then live[#live + 1] = b end
  end
  put_balances(s, live)
  pool_changed(p)
end
