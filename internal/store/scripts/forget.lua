-- forget: drops the outcomes of a source that are committed, and what is left of customers that do not
-- exist for having been asked about.
-- uses: layout msgpack log
--
-- KEYS[1] the log of the source, for example tollgate:log:Yk3a9d_Q; or KEYS[1] a customer, where there is
--   no log (in a Cluster)
-- KEYS[2..] customers, for example tollgate:{acme}
-- ARGV[1] the source (store.Source), ARGV[2] the offset up to which it is committed, ARGV[3] 1 where there is a log
-- Returns how many outcomes, or texts of them, were dropped.
-- Invariant: what ledger.lua answers to any record stays the same, but that it cannot repeat the outcome of
-- one that is committed.
local source, committed, has_log = ARGV[1], tonumber(ARGV[2]), ARGV[3] == '1'
local call, dropped = redis.call, 0

local function forget_log(key)
  local floor = tonumber(call('HGET', key, 'floor') or 0)
  if committed > floor then call('HSET', key, 'floor', string.format('%.0f', committed)) end
  dropped = dropped + drop_entries(key, committed)
end

local function forget_customer(key, text)
  local v = values_of(text)
  if v[C.format] ~= LIMIT.format then return end
  for i = C.pools, #v, 2 do
    local l = v[i] == '\0' .. source and v[i + 1]
    if l and has_log then
      -- The floor of the log tells that it was asked about; without a log the mark ends by itself.
      if v[C.life] == '' and l < committed and #v == C.pools + 1 then dropped = dropped + call('UNLINK', key) end
    elseif l and v[C.life] ~= '' and l[L.last] < committed and l[L.entries] ~= '' then
      l[L.floor], l[L.entries] = math.max(committed, l[L.floor]), ''
      call('SET', key, text_of(v))
      dropped = dropped + 1
    end
  end
end

if has_log then forget_log(KEYS[1]) end
for i = has_log and 2 or 1, #KEYS do
  local text = call('GET', KEYS[i])
  -- What cannot be read is left to the customer's next record.
  if text then pcall(forget_customer, KEYS[i], text) end
end
return dropped
