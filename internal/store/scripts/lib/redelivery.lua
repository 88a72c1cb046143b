-- uses: layout struct call ledger
-- lazy: redelivery
-- Reading what a ledger keeps.

-- Adds the outcomes of a text of entries to an index by offset.
local function index_entries(index, entries)
  local at_byte, offset, timestamp, outcome = 1, nil, nil, nil
  while at_byte <= #entries do
    offset, timestamp, outcome, at_byte = struct_unpack(formats.entry, entries, at_byte)
    index[offset] = { timestamp, outcome }
  end
end

-- The lowest and the highest offset of the records of this call.
local function offsets_of_call()
  local place, from, to = HEAD.size, math.huge, -1
  for _ = 1, a[HEAD.steps] do
    local offset = a[place + STEP.offset]
    local _, _, next_place = places_in_step(place)
    from, to, place = min(from, offset), max(to, offset), next_place
  end
  return from, to
end

-- The outcomes that are kept for a customer, by offset: {timestamp, outcome}. Those of this call are not
-- among them: no record is in it twice.
local function index_of(c)
  if not log then
    local index = {}
    index_entries(index, open_ledger(c)[L.entries])
    return index
  end
  if not log_index then
    log_index = {}
    local from, to = offsets_of_call()
    local written = {}
    for _, field in ipairs(call('HKEYS', log)) do
      local write, lowest_offset, highest_offset = match(field, '^(%d+):(%d+):(%d+)$')
      if write and tonumber(lowest_offset) <= to and tonumber(highest_offset) >= from then
        written[#written + 1] = { tonumber(write), field }
      end
    end
    table.sort(written, function(x, y) return x[1] < y[1] end)
    for _, one in ipairs(written) do index_entries(log_index, call('HGET', log, one[2])) end
  end
  return log_index
end

-- The entries of a text from an offset on.
local function entries_from(entries, least)
  local at_byte, kept = 1, {}
  while at_byte <= #entries do
    local offset, _, _, next_byte = struct_unpack(formats.entry, entries, at_byte)
    if offset >= least then kept[#kept + 1] = string.sub(entries, at_byte, next_byte - 1) end
    at_byte = next_byte
  end
  return table.concat(kept)
end
