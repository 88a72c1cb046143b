-- Periods and resets (semantics: Periods, Rollovers). One closure, so that a check
-- with nothing due does not pay for the functions inside.
--
-- settle_balance(b, feature, now, items): applies every reset of b due at now, as if each
-- had been applied at its own time, in time bounded by LIMIT.rollovers.
-- items: packed list of {plan, I...} rows, the catalogue's items of today, or ''.
-- next_reset(anchor, unit, count, now): the first period boundary after now.
local function calendar()
  local floor = math.floor
  local DAY_MS = 86400000
  -- Length of the units with a fixed one, in ms; months of the others.
  local FIXED_MS = { 60000, 3600000, DAY_MS, 7 * DAY_MS }
  local MONTHS = { [UNIT.month] = 1, [UNIT.quarter] = 3, [UNIT.semi_annual] = 6, [UNIT.year] = 12 }

  -- Days since 1970-01-01 to year, month 0..11, day (proleptic Gregorian; Howard
  -- Hinnant's algorithm, in which a year begins in March), and back.
  local function civil(days)
    days = days + 719468
    local era = floor(days / 146097)
    local day_of_era = days - era * 146097
    local year_of_era = floor((day_of_era - floor(day_of_era / 1460) + floor(day_of_era / 36524) - floor(day_of_era / 146096)) / 365)
    local day_of_year = day_of_era - (365 * year_of_era + floor(year_of_era / 4) - floor(year_of_era / 100))
    local shifted = floor((5 * day_of_year + 2) / 153)
    local day = day_of_year - floor((153 * shifted + 2) / 5) + 1
    local month = (shifted + 2) % 12
    local year = year_of_era + era * 400
    if month < 2 then year = year + 1 end
    return year, month, day
  end
  local function days_from_civil(year, month, day)
    if month < 2 then year = year - 1 end
    local era = floor(year / 400)
    local year_of_era = year - era * 400
    local day_of_year = floor((153 * ((month + 10) % 12) + 2) / 5) + day - 1
    local day_of_era = year_of_era * 365 + floor(year_of_era / 4) - floor(year_of_era / 100) + day_of_year
    return era * 146097 + day_of_era - 719468
  end

  -- Months since year 0 of a time, and a time some months later on the same day of
  -- the month, or the month's last.
  local function month_number(time)
    local year, month = civil(floor(time / DAY_MS))
    return year * 12 + month
  end
  local function add_months(time, months)
    local days = floor(time / DAY_MS)
    local year, month, day = civil(days)
    local number = year * 12 + month + months
    local to_year, to_month = floor(number / 12), number % 12
    local first = days_from_civil(to_year, to_month, 1)
    local next_first = days_from_civil(floor((number + 1) / 12), (number + 1) % 12, 1)
    return (first + min(day, next_first - first) - 1) * DAY_MS + (time - days * DAY_MS)
  end

  -- The k-th boundary after the anchor, and the last one at or before a time.
  local function boundary(anchor, unit, count, k)
    local months = MONTHS[unit]
    if months then return add_months(anchor, k * count * months) end
    return anchor + k * count * FIXED_MS[unit]
  end
  local function boundary_index(anchor, unit, count, time)
    local months = MONTHS[unit]
    if not months then return floor((time - anchor) / (count * FIXED_MS[unit])) end
    local k = floor((month_number(time) - month_number(anchor)) / (count * months))
    if boundary(anchor, unit, count, k) > time then k = k - 1 end
    return k
  end
  local function has_period(unit) return unit ~= UNIT.none and unit ~= UNIT.one_off end

  -- When what is rolled over at a reset expires. Periods of months count on the
  -- anchor's day, so that a clamped reset does not shorten the next one.
  local function rollover_expiry(anchor, unit, months, reset_at)
    if months == 0 then return 0 end
    if MONTHS[unit] then
      return add_months(anchor, month_number(reset_at) - month_number(anchor) + months)
    end
    return add_months(reset_at, months)
  end

  -- Adds what is left at a reset to the rollovers, the oldest making way where all
  -- together would pass rollover_max, or where there would be too many of them (those
  -- that never expire then add up instead). Without a rollover rule nothing is added.
  local function roll_over(b, left, expires)
    local rollovers, room = b[B.rollovers], b[B.rollover_max]
    if room < 0 then
      room = math.huge
    elseif left > 0 then
      rollovers[#rollovers + 1] = { left, left, expires }
    end
    local newest_first = {}
    for i = #rollovers, 1, -1 do
      local r = rollovers[i]
      local amount = min(r[R.left], room)
      local last = newest_first[#newest_first]
      if amount > 0 and #newest_first < LIMIT.rollovers then
        newest_first[#newest_first + 1] = { amount, amount, r[R.expires] }
      elseif amount > 0 and r[R.expires] == 0 and last[R.expires] == 0 then
        last[R.held], last[R.left] = last[R.held] + amount, last[R.left] + amount
      end
      room = room - amount
    end
    local kept, n = {}, #newest_first
    for i = 1, n do kept[i] = newest_first[n + 1 - i] end
    b[B.rollovers] = kept
  end

  local function drop_expired(b, time)
    local kept = {}
    for _, r in ipairs(b[B.rollovers]) do
      if r[R.expires] == 0 or r[R.expires] > time then kept[#kept + 1] = r end
    end
    b[B.rollovers] = kept
  end

  -- Takes over what the catalogue says of the balance's item today.
  local function adopt(b, feature, items)
    b[B.included], b[B.added] = b[B.included] - b[B.added], 0
    if b[B.plan] == '' or items == '' then return end
    for _, row in ipairs(unpacked(items)) do
      local item = row[2]
      if row[1] == b[B.plan] and item[I.number] == b[B.id] and item[I.feature] == feature then
        b[B.unlimited], b[B.overage], b[B.max] = item[I.unlimited], item[I.overage], item[I.max]
        b[B.unit], b[B.count] = item[I.unit], item[I.count]
        -- A catalogue that grants more than fits grants what fits.
        b[B.included] = min(item[I.included] * b[B.times], LIMIT.max - b[B.prepaid])
        b[B.rollover_max], b[B.rollover_months] = item[I.rollover_max], item[I.rollover_months]
        return
      end
    end
  end

  local function refill(b)
    b[B.included_left], b[B.prepaid_left] = b[B.included], b[B.prepaid]
    b[B.over], b[B.from_rollovers] = 0, 0
  end

  -- One reset at its time: what is left rolls over, the rest starts afresh.
  local function reset_once(b, reset_at, expires)
    drop_expired(b, reset_at)
    roll_over(b, b[B.included_left] + b[B.prepaid_left], expires)
    refill(b)
  end

  local function next_reset(anchor, unit, count, now)
    if not has_period(unit) then return 0 end
    return boundary(anchor, unit, count, max(1, boundary_index(anchor, unit, count, now) + 1))
  end

  local function settle_balance(b, feature, now, items)
    local first, old_unit = b[B.resets], b[B.unit]
    if first > 0 and first <= now then
      adopt(b, feature, items)
      reset_once(b, first, rollover_expiry(b[B.anchor], old_unit, b[B.rollover_months], first))
      local anchor, unit, count = b[B.anchor], b[B.unit], b[B.count]
      b[B.resets] = next_reset(anchor, unit, count, max(first, now))
      if has_period(unit) then
        local from = max(1, boundary_index(anchor, unit, count, first) + 1)
        local to = boundary_index(anchor, unit, count, now)
        -- Every missed period passed unused, so the last ones fill the rollovers on their
        -- own: those before them need not be gone through.
        local full, needed = b[B.included] + b[B.prepaid], 1
        if full > 0 and b[B.rollover_max] > 0 then
          needed = min(LIMIT.rollovers, floor((b[B.rollover_max] - 1) / full) + 2)
        end
        from = max(from, to + 1 - needed)
        for k = from, to do
          local reset_at = boundary(anchor, unit, count, k)
          reset_once(b, reset_at, rollover_expiry(anchor, unit, b[B.rollover_months], reset_at))
        end
      end
    end
    drop_expired(b, now)
  end

  return settle_balance, next_reset
end
