-- uses: layout
-- lazy: whole
-- Amounts in the units of a credit system (semantics: Amounts, Which pool). A product passes what a double counts
-- exactly, so it is worked out in limbs of seven digits, whose products and sums do not.

-- The limbs of a text of digits, the lowest first.
local function limbs_of(digits)
  local limbs = {}
  for last = #digits, 1, -7 do limbs[#limbs + 1] = tonumber(string.sub(digits, max(1, last - 6), last)) end
  return limbs
end

-- The product of two texts of digits, as one.
local function product_of(x, y)
  local x_limbs, y_limbs, limbs = limbs_of(x), limbs_of(y), {}
  for i = 1, #x_limbs + #y_limbs do limbs[i] = 0 end
  for i, x_limb in ipairs(x_limbs) do
    local carry = 0
    for j = 1, #y_limbs + 1 do
      local sum = limbs[i + j - 1] + x_limb * (y_limbs[j] or 0) + carry
      limbs[i + j - 1] = sum % 10000000
      carry = (sum - sum % 10000000) / 10000000
    end
  end
  local texts = {}
  for i = #limbs, 1, -1 do texts[#texts + 1] = string.format('%07.0f', limbs[i]) end
  return match(table.concat(texts), '^0*(.*)$')
end

-- What an amount, at least 1, costs in a credit system; false if that does not fit. factor: the cost of one unit of the
-- amount in units of the system, <digits>e<exponent>. Rounded up: using something never costs nothing.
local function convert(amount, factor)
  local digits, exponent = match(factor, '^(%d+)e(-?%d+)$')
  local product, places = product_of(string.format('%.0f', amount), digits), tonumber(exponent)
  local length = #product + places -- of what stands before the point
  if length > 16 then return false end
  if places >= 0 then
    product = product .. string.rep('0', places)
    places = 0
  end
  local units = tonumber(string.sub(product, 1, max(0, length))) or 0
  if match(product, '[1-9]', max(0, length) + 1) then units = units + 1 end
  return units <= LIMIT.max and units
end
