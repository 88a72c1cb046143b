-- uses: layout msgpack call rollovers
-- lazy: settle
-- Periods and resets (semantics: Periods, Rollovers).
--
-- settle_balance(s, i, feature, now, rows): applies every reset due of the balance at base i of pool s, as
--   if each had been applied at its own time, and drops the rollovers that have expired at now. The
--   expiry of the balance itself is the caller's. However many resets were missed, it takes some steps for
--   each month that a rollover lives, or that went by (miss), not for each reset.
--   rows: packed list of {plan id, I}, the catalogue's items of today, or ''.
-- next_reset(anchor, unit, count, now): the first period boundary after now.
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

-- Months since year 0 of a time, the first day of such a month, and a time some months later on
-- the same day of the month, or the month's last.
local function month_number(time)
  local year, month = civil(floor(time / DAY_MS))
  return year * 12 + month
end
local function first_day(number) return days_from_civil(floor(number / 12), number % 12, 1) end
local function add_months(time, months)
  local days = floor(time / DAY_MS)
  local year, month, day = civil(days)
  local number = year * 12 + month + months
  local first = first_day(number)
  return (first + min(day, first_day(number + 1) - first) - 1) * DAY_MS + (time - days * DAY_MS)
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

local function next_reset(anchor, unit, count, now)
  if not has_period(unit) then return 0 end
  return boundary(anchor, unit, count, max(1, boundary_index(anchor, unit, count, now) + 1))
end

-- When what is rolled over at a reset expires. Periods of months count on the anchor's day, so that a
-- clamped reset does not shorten the next one.
local function rollover_expiry(anchor, unit, months, reset_at)
  if months == 0 then return 0 end
  if MONTHS[unit] then
    return add_months(anchor, month_number(reset_at) - month_number(anchor) + months)
  end
  return add_months(reset_at, months)
end

-- Adds a run behind the others. It goes into the last one if that goes on like this.
local function add_run(runs, held, each, n, expires, step)
  local j = #runs - R.size
  local previous = j >= 0 and runs[j + R.expires]
  if n == 1 then each, step = held, 0 end
  if previous and (previous == 0) == (expires == 0) and held == each then
    local count = runs[j + R.n]
    local gap = expires - previous - (count - 1) * runs[j + R.step]
    local goes_on = count == 1 or (gap == runs[j + R.step] and each == runs[j + R.each])
    if (gap > 0 or expires == 0) and goes_on and (n == 1 or gap == step) then
      runs[j + R.each], runs[j + R.n], runs[j + R.step] = each, count + n, gap
      return
    end
  end
  local base = j + R.size
  runs[base + R.held], runs[base + R.each], runs[base + R.n] = held, each, n
  runs[base + R.taken], runs[base + R.expires], runs[base + R.step] = 0, expires, step
end

-- Drops the first k of a run, and an amount from its first on. What holds nothing is gone; n is 0 if
-- that is all of the run.
local function drop_first(runs, j, k)
  if k == 0 then return end
  runs[j + R.held], runs[j + R.n] = runs[j + R.each], runs[j + R.n] - k
  runs[j + R.expires] = runs[j + R.expires] + k * runs[j + R.step]
end
local function drop_amount(runs, j, amount)
  local held, each = runs[j + R.held], runs[j + R.each]
  local k = amount < held and 0 or floor((amount - held) / each) + 1
  local rest = amount - held_by(runs, j, k)
  drop_first(runs, j, k)
  runs[j + R.held] = runs[j + R.held] - rest
end

-- The rollovers after a reset: what is left of those that have not expired, as much of the newest as there
-- is room for.
local function at_reset(runs, time, room)
  for j = #runs - R.size, 0, -R.size do
    drop_amount(runs, j, runs[j + R.taken])
    if runs[j + R.n] > 0 then drop_first(runs, j, expired_by(runs, j, time)) end
    if runs[j + R.n] > 0 then
      local total = held_by(runs, j, runs[j + R.n])
      if total > room then drop_amount(runs, j, total - room) end
      room = max(0, room - total)
    end
  end
  local kept = {}
  for j = 0, #runs - R.size, R.size do
    if runs[j + R.n] > 0 then
      add_run(kept, runs[j + R.held], runs[j + R.each], runs[j + R.n], runs[j + R.expires], runs[j + R.step])
    end
  end
  return kept
end

-- The rollovers between two resets: the expired are gone, with what was taken of them.
local function unexpired(runs, time)
  local kept = {}
  for j = 0, #runs - R.size, R.size do
    local k = expired_by(runs, j, time)
    local taken = max(0, runs[j + R.taken] - held_by(runs, j, k))
    drop_first(runs, j, k)
    if runs[j + R.n] > 0 then
      local base = #kept
      for field = 1, R.size do kept[base + field] = runs[j + field] end
      kept[base + R.taken] = taken
    end
  end
  return kept
end

-- The missed resets of one balance, first to last, at each of which all of full rolls over, to live for
-- months (0: for ever), while all rollovers hold most at the most. Returns what becomes of
-- runs, the rollovers from before, at now.
--
-- A rollover only ever makes way for newer ones, so what is kept of one that is alive is given by the
-- largest sum that those newer than it had at any reset. Usually they still have it: then the last ones
-- are kept that find room. Only if some of the newer have expired before it (those made on the last
-- days of a long month all expire on the last day of a short one; or the catalogue says another
-- number of months than it did) must the past be looked at: their sum is largest at one of a few
-- turning points in each month.
local function miss(runs, first, last, now, anchor, unit, count, full, most, months)
  local length = FIXED_MS[unit] and FIXED_MS[unit] * count -- of a period, nil for one of months
  local living = not length and months > 0 and math.ceil(months / (count * MONTHS[unit])) -- then: as many are alive

  local function time_of(k) return boundary(anchor, unit, count, k) end
  local function last_by(time) return boundary_index(anchor, unit, count, time) end
  local function expiry_of(k) return rollover_expiry(anchor, unit, months, time_of(k)) end

  -- Sums; TOO_MUCH, which a double still counts exactly, if they would pass LIMIT.max.
  local TOO_MUCH = LIMIT.max + 1
  local function full_times(n) return n <= floor(LIMIT.max / full) and n * full or TOO_MUCH end
  local function plus(a, b) return a <= LIMIT.max - b and a + b or TOO_MUCH end

  -- How many resets from number k on are after a time and before another.
  local function resets_between(k, after, before)
    return max(0, last_by(before - 1) - max(k - 1, last_by(after)))
  end

  -- How many rollovers are alive at reset k, itself included, of those made from reset oldest on.
  local function alive_at(k, oldest)
    if months == 0 then return k - oldest + 1 end
    if living then return min(living, k - oldest + 1) end
    local time = time_of(k)
    local today = floor(time / DAY_MS)
    local number = month_number(time)
    -- Those made after the month that expires in this one, and of that month those that expire later: on a
    -- later day, or later on this day; more than one day's where this is the month's last.
    local month, behind = first_day(number - months), first_day(number - months + 1)
    local day = today - first_day(number)
    local n = resets_between(oldest, behind * DAY_MS - 1, time + 1)
    local since = (month + day) * DAY_MS + (time - today * DAY_MS)
    if today + 1 < first_day(number + 1) then return n + resets_between(oldest, since, behind * DAY_MS) end
    for made = month + day, behind - 1 do
      n = n + resets_between(oldest, since + (made - month - day) * DAY_MS, (made + 1) * DAY_MS)
    end
    return n
  end

  -- What is alive at a time of runs.
  local function held_at(some, time)
    local sum = 0
    for j = 0, #some - R.size, R.size do
      sum = sum + held_by(some, j, some[j + R.n]) - held_by(some, j, expired_by(some, j, time))
    end
    return sum
  end

  -- The resets from oldest on between which alive_at is never more than at both ends, and dead expires
  -- evenly.
  local function turning_points(oldest, dead)
    local points, seen = {}, {}
    local function add(k)
      if k < oldest or k > last or seen[k] then return end
      points[#points + 1], seen[k] = k, true
    end
    local function around(time)
      local k = last_by(time - 1)
      add(k)
      add(k + 1)
    end
    add(oldest)
    add(last)
    if length and months > 0 then
      around(expiry_of(oldest))
      local CYCLE = 4800 -- after so many months all months are as long again
      local number = month_number(time_of(last))
      for month = max(month_number(time_of(oldest)) + months, number - CYCLE), number do
        -- As many are alive all month, except that none expires behind the last day of a shorter month, so
        -- that they grow, and several days expire on the last day of a month after a longer one.
        around(first_day(month) * DAY_MS)
        around((first_day(month + 1) - 1) * DAY_MS)
      end
    end
    for j = 0, #dead - R.size, R.size do
      around(dead[j + R.expires])
      around(dead[j + R.expires] + (dead[j + R.n] - 1) * dead[j + R.step])
    end
    table.sort(points)
    return points
  end

  -- The largest sum, at any reset from oldest on, of what was made from then on and is alive and of what
  -- is alive of dead, runs from before.
  local function largest_sum(oldest, dead)
    local best, looks = 0, 2000
    local function look(k)
      local alive = alive_at(k, oldest)
      best = max(best, plus(full_times(alive), held_at(dead, time_of(k))))
      return alive
    end
    -- What expires in other steps than the periods' goes up and down between turning points, too. There
    -- it is looked for, in halves that can have more than the best so far; in the end no further than
    -- looks goes, which only a catalogue that changed periods and months more than once could reach.
    local function search(from, to, from_alive, to_alive)
      if to - from < 2 or looks == 0 then return end
      if plus(full_times(max(from_alive, to_alive)), held_at(dead, time_of(from))) <= best then return end
      looks = looks - 1
      local middle = floor((from + to) / 2)
      local alive = look(middle)
      search(from, middle, from_alive, alive)
      search(middle, to, alive, to_alive)
    end
    local even = true
    for j = 0, #dead - R.size, R.size do
      even = even and (dead[j + R.n] <= 2 or dead[j + R.step] == length)
    end
    local points, alive = turning_points(oldest, dead), {}
    for n = 1, #points do alive[n] = look(points[n]) end
    for n = 2, even and 0 or #points do search(points[n - 1], points[n], alive[n - 1], alive[n]) end
    return best
  end

  -- The new rollovers, newest first: of what the first held, how many, when the first expires.
  local made, newer_died, no_room = {}, false, false
  local function add_made(held, n, expires)
    local j = #made
    made[j + 1], made[j + 2], made[j + 3] = held, n, expires
  end
  -- Those of the resets from a day on, before another day, which expire so much later.
  local function add_days(day, before, later)
    local from, to = max(first, last_by(day * DAY_MS - 1) + 1), min(last, last_by(before * DAY_MS - 1))
    if from > to or no_room then return end
    local alive = max(from, last_by(now - later) + 1)
    if alive <= to then
      local newer = newer_died and largest_sum(to + 1, {}) or full_times(last - to)
      local room, n, held = most - newer, to - alive + 1, full
      if room < full_times(n) then
        no_room = true
        n = math.ceil(room / full)
        held = room - (n - 1) * full
      end
      if n > 0 then add_made(held, n, time_of(to) + later - (n - 1) * length) end
    end
    newer_died = newer_died or alive > from
  end
  if months == 0 then
    local total = min(most, full_times(last - first + 1))
    local n = math.ceil(total / full)
    if n > 0 then add_made(total - (n - 1) * full, n, 0) end
  elseif living then
    local room = most
    for k = last, first, -1 do
      local expires = expiry_of(k)
      if room <= 0 or expires <= now then break end
      add_made(min(full, room), 1, expires)
      room = room - full
    end
    no_room = room <= 0
  else
    local oldest = max(month_number(time_of(first)), month_number(now) - months)
    for month = month_number(time_of(last)), oldest, -1 do
      if no_room then break end
      local start, behind = first_day(month), first_day(month + 1)
      local target = first_day(month + months)
      local target_days = first_day(month + months + 1) - target
      for day = behind - 1, start + target_days, -1 do
        add_days(day, day + 1, (target + target_days - 1 - day) * DAY_MS)
      end
      add_days(start, min(behind, start + target_days), (target - start) * DAY_MS)
    end
  end

  -- Of the rollovers from before, newest first, what the newer leave room for.
  if no_room then
    runs = {}
  elseif #runs > 0 then
    local bound = last - first + 1 -- of how many of the new ones were ever alive
    if living then
      bound = min(bound, living)
    elseif months > 0 then
      bound = min(bound, floor(31 * months * DAY_MS / length) + 1)
    end
    local newer, dead, dead_sum = 0, {}, 0
    local most_newer, looked_at -- with so much of dead
    for j = #runs - R.size, 0, -R.size do
      local n = runs[j + R.n]
      local k = expired_by(runs, j, now)
      local expired = held_by(runs, j, k)
      local alive = held_by(runs, j, n) - expired
      if alive > 0 then
        local known = plus(full_times(bound), dead_sum)
        if most - newer - known < alive then
          if looked_at ~= #dead then most_newer, looked_at = largest_sum(first, dead), #dead end
          known = most_newer
        end
        local room = max(0, most - newer - known)
        newer = newer + alive
        if room < alive then
          runs[j + R.taken] = expired + alive - room
          for older = 0, j - R.size, R.size do runs[older + R.taken] = held_by(runs, older, runs[older + R.n]) end
          break
        end
      end
      if k > 0 then
        local base = #dead
        for field = 1, R.size do dead[base + field] = runs[j + field] end
        dead[base + R.n] = k
        dead_sum = dead_sum + expired
      end
    end
    runs = at_reset(runs, now, math.huge)
  end
  for j = #made - 3, 0, -3 do add_run(runs, made[j + 1], full, made[j + 2], made[j + 3], made[j + 3] > 0 and length or 0) end
  return runs
end

-- B.flags of a balance of an item; shared is 0 or 1.
local function flags_of(item, shared)
  return item[I.unlimited] * FLAG.unlimited + shared * FLAG.shared + item[I.overage] * FLAG.overage
end

-- Takes over what the catalogue says of the balance's item today.
local function adopt(s, i, d, feature, rows)
  s[i + B.included], d[D.added] = s[i + B.included] - d[D.added], 0
  if d[D.plan] == '' or rows == '' then return end
  for _, row in ipairs(values_of(rows)) do
    local item = row[2]
    if row[1] == d[D.plan] and item[I.number] == d[D.id] and item[I.feature] == feature then
      local shared = floor(s[i + B.flags] / 2) % 2
      s[i + B.flags] = flags_of(item, shared)
      s[i + B.max] = item[I.max]
      d[D.unit], d[D.count] = item[I.unit], item[I.count]
      -- A catalogue that grants more than fits grants what fits.
      s[i + B.included] = min(item[I.included] * d[D.times], LIMIT.max - s[i + B.prepaid])
      d[D.rollover_max], d[D.rollover_months] = item[I.rollover_max], item[I.rollover_months]
      return
    end
  end
end

local function settle_balance(s, i, feature, now, rows)
  local first, text = s[i + B.resets], s[i + B.rollovers]
  if first == 0 or first > now then
    if text ~= '' then s[i + B.rollovers] = text_of_runs(unexpired(values_of(text), now)) end
    return
  end
  local d = values_of(s[i + B.details])
  local old_unit, left = d[D.unit], s[i + B.included_left] + s[i + B.prepaid_left]
  adopt(s, i, d, feature, rows)
  local anchor, unit, count, most, months = d[D.anchor], d[D.unit], d[D.count], d[D.rollover_max], d[D.rollover_months]

  local runs = text == '' and {} or values_of(text)
  if most < 0 then
    runs = at_reset(runs, first, math.huge)
  else
    left = min(left, most)
    runs = at_reset(runs, first, most - left)
    if left > 0 then add_run(runs, left, left, 1, rollover_expiry(anchor, old_unit, months, first), 0) end
  end
  local full = s[i + B.included] + s[i + B.prepaid]
  s[i + B.included_left], s[i + B.prepaid_left] = s[i + B.included], s[i + B.prepaid]
  s[i + B.over], s[i + B.from_rollovers], s[i + B.held] = 0, 0, 0
  s[i + B.resets] = next_reset(anchor, unit, count, now)

  if has_period(unit) and most >= 0 and full > 0 then
    local from, to = max(1, boundary_index(anchor, unit, count, first) + 1), boundary_index(anchor, unit, count, now)
    if from <= to then runs = miss(runs, from, to, now, anchor, unit, count, full, most, months) end
  end
  s[i + B.rollovers] = text_of_runs(at_reset(runs, now, math.huge))
  s[i + B.details] = text_of(d)
end
