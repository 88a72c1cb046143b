-- uses: layout call
-- What all entities together hold of the features that the customer shares (SHARED), as checks use it.

-- A number that a double may not count exactly, as two that it does: millions, and the rest.
local function add_to(list, place, n)
  local rest = n % 1000000
  local millions, sum = list[place] + (n - rest) / 1000000, list[place + 1] + rest
  if sum >= 1000000 then millions, sum = millions + 1, sum - 1000000 end
  list[place], list[place + 1] = millions, sum
end

-- The sums of a customer, a list of SHARED.
local function shared_sums(c) return c.v[C.shared] ~= '' and c.v[C.shared] or NOTHING end

local function shared_of(c, feature)
  local all = shared_sums(c)
  for n = 1, #all do
    if all[n][SHARED.feature] == feature then return all[n] end
  end
end
