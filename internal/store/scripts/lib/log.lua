-- uses: layout
-- Drops the entries of a log (ledger.lua) below an offset, LIMIT.keys at the most. Returns how many.
local function drop_entries(key, below)
  local fields = {}
  for _, field in ipairs(redis.call('HKEYS', key)) do
    local offset = string.match(field, ':(%d+)$')
    if offset and tonumber(offset) < below and #fields < LIMIT.keys then fields[#fields + 1] = field end
  end
  return #fields > 0 and redis.call('HDEL', key, unpack(fields)) or 0
end
