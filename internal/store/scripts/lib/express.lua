-- The check that nearly all checks are, in one go: a customer's own balances of one feature
-- (or of the credit system that covers it), nothing of them due, enough left of what was
-- granted. It decides as choose.lua, pool.lua and deduct.lua do, which it leaves everything
-- else to; it stands before them because Redis builds every function that it comes to anew
-- for every call. The property test holds both against the same model.
--
-- Returns the outcome, nil where the check is another one; nothing is changed then.
local function express()
  local mode = ARGV[12]
  if ARGV[11] ~= '' or ARGV[14] ~= '' or (mode ~= '1' and mode ~= '0') then return nil end
  local fields = {}
  for i = 15, #ARGV, 2 do
    local n, feature = #fields, ARGV[i]
    fields[n + 1], fields[n + 2] = 'b' .. feature, 'n' .. feature
  end
  local raw = redis.call('HMGET', KEYS[1], unpack(fields))
  local n = 1
  while n < #raw and not raw[n] and not raw[n + 1] do n = n + 2 end -- a pool without balances
  local packed, held_by_entities, feature, need = raw[n], raw[n + 1], ARGV[14 + n], tonumber(ARGV[15 + n])
  if not packed or (held_by_entities and held_by_entities ~= '0') or not need or need <= 0 then return nil end

  local balances, available = cmsgpack.unpack(packed), 0
  for i = 1, #balances do
    local b = balances[i]
    local resets, expires = b[B.resets], b[B.expires]
    if (resets > 0 and resets <= now) or (expires > 0 and expires <= now) or #b[B.rollovers] > 0
      or b[B.unlimited] == 1 or b[B.over] > 0 or b[B.from_rollovers] > 0 then return nil end
    available = available + b[B.included_left] + b[B.prepaid_left]
  end
  if available < need then return nil end
  if mode == '0' then return { MARK.decided, 'included', now, need, { feature, { { '', packed } } }, {}, 0, {}, {} } end

  local lines, left, place = {}, need, 0
  while left > 0 do
    place = place + 1
    local b = balances[place]
    local included, prepaid = b[B.included_left], b[B.prepaid_left]
    if included > 0 then
      local amount = included < left and included or left
      b[B.included_left], left = included - amount, left - amount
      lines[#lines + 1] = { 0, place - 1, amount, KIND.included }
    end
    if prepaid > 0 and left > 0 then
      local amount = prepaid < left and prepaid or left
      b[B.prepaid_left], left = prepaid - amount, left - amount
      lines[#lines + 1] = { 0, place - 1, amount, KIND.prepaid }
    end
  end
  packed = cmsgpack.pack(balances)
  redis.call('HSET', KEYS[1], 'b' .. feature, packed)
  return { MARK.decided, 'included', now, need, { feature, { { '', packed } } }, lines, need, {}, {} }
end

local seen = begin()
if seen then return seen end
local outcome = express()
if outcome then return finish(outcome, ARGV[12] == '1') end
