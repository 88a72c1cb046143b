-- uses: layout struct
-- What all entities together hold of the features that the customer shares (SHARED), as most checks need it.

-- A number that a double may not count exactly, as two that it does: millions, and the rest. Both of a sum and n.
local function add_exactly(millions, rest, n)
  local rest_of_n = n % 1000000
  millions, rest = millions + (n - rest_of_n) / 1000000, rest + rest_of_n
  if rest >= 1000000 then return millions + 1, rest - 1000000 end
  return millions, rest
end

-- The place in C.shared of what a customer's entities share of a feature, nil if they share nothing.
local function place_of_sums(c, feature)
  local all = c.v[C.shared]
  for n = 1, all == '' and 0 or #all, 2 do
    if all[n] == feature then return n end
  end
end

-- Packed sums after an entity has consumed something.
local function sums_after(text, consumed)
  local remaining_millions, remaining, usage_millions, usage, queued = struct_unpack(formats.sums, text)
  remaining_millions, remaining = add_exactly(remaining_millions, remaining, -consumed)
  usage_millions, usage = add_exactly(usage_millions, usage, consumed)
  return struct_pack(formats.sums, remaining_millions, remaining, usage_millions, usage, queued) .. string.sub(text, formats.sums_size + 1)
end
