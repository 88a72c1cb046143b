-- uses: layout msgpack call convert pool deduct snapshot
-- lazy: whole
-- Which pools (semantics: Which pool), and how an outcome shows them. Candidates are in a list, from a place to another:
-- a feature and the need in its units; then for each credit system that covers it, in the catalogue's order, its id, the
-- need in its units, and its factor (convert.lua). A need of false does not fit: such a pool allows nothing.
--
-- A choice is a list of the views to draw from: one, or the feature's own pool and a credit system. A denied one has the
-- view that is reported. Besides
--   code, allowed
--   own: the view of the feature's own pool
-- Each view has take: what is to be drawn from it.

local function is_empty(view)
  if view.shared then return false end
  local empty = true
  each_balance(view, function() empty = false end)
  return empty
end

local function choice_of(own, view, first)
  view.take = view.need
  local choice = { first or view, code = view.code, allowed = view.allowed, own = own }
  if first then
    first.take = first.available
    choice[2] = view
  end
  return choice
end

-- What own has, and the rest from a credit system.
local function both(own, view) return choice_of(own, view, own.available > 0 and own or nil) end

local function is_covered(view) return view.code == 'included' or view.code == 'unlimited' end

local function choose(c, entity, candidates, from, to)
  local own, reported, beyond = view_of(c, candidates[from], entity), nil, nil
  decide(own, candidates[from + 1])
  if is_covered(own) then return choice_of(own, own) end
  for i = from + 2, to, 3 do
    local view, need = view_of(c, candidates[i], entity), candidates[i + 1]
    if not is_empty(view) then
      view.factor = candidates[i + 2]
      if own.available > 0 then need = convert(own.need - own.available, view.factor) end
      decide(view, need)
      if is_covered(view) then return both(own, view) end
      if view.allowed then beyond = beyond or view end
      reported = reported or view
    end
  end
  if own.allowed then return choice_of(own, own) end
  if beyond then return both(own, beyond) end
  return choice_of(own, reported or own)
end

-- Makes of a choice that was denied what is taken all the same (semantics: Usage without asking): what own has, its
-- overage included, and of the rest what the reported credit system has; force: what is left then as overage. False
-- if that does not fit.
local function choose_anyway(choice, force)
  local own, view = choice.own, choice[1]
  view.force = force
  if view ~= own then
    own.take = own.available + own.open
    view.take = own.take > 0 and convert(own.need - own.take, view.factor) or view.need
    if own.take > 0 then choice[1], choice[2] = own, view end
  end
  return view.take and true
end

-- A view as an outcome has it: {feature, how many parts count as a whole (0: all), totals ({}: there
-- are no more than are shown), and of each part the entity and its balances}. The view's lines refer to the
-- snapshot's parts and are changed where these are not the view's.
local function snapshot_of(view)
  local parts, balances = view.parts, 0
  for n = 1, #parts do balances = balances + (#parts[n].s - 1) / B.size end
  if view.shared or balances > LIMIT.shown then return snapshot_of_many(view, view.lines or NOTHING) end
  local snapshot = { view.feature, (view.shared_from or 1) - 1, NOTHING }
  if view.shared_from == 1 then snapshot[2] = -1 end
  for n = 1, #parts do snapshot[2 * n + 2], snapshot[2 * n + 3] = parts[n].owner.entity, parts[n].text end
  return snapshot
end
