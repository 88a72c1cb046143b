-- uses: layout msgpack call pool deduct snapshot
-- lazy: whole
-- Which pool (semantics), and how an outcome shows it. Candidates are pairs in a list, from a place to
-- another: a feature and the need in its units, the feature's own pool first, then the credit systems
-- that cover it in the catalogue's order. A need of false does not fit: such a pool allows nothing.

local function is_empty(view)
  if view.shared then return false end
  local empty = true
  each_balance(view, function() empty = false end)
  return empty
end

-- Returns the view that is used, or reported where none allows it, with its need, code and allowed.
local function choose(c, entity, candidates, from, to)
  local reported, reports_credits
  for i = from, to, 2 do
    local view = view_of(c, candidates[i], entity)
    decide(view, candidates[i + 1])
    if view.allowed then return view end
    -- For the denial: the first credit system that the customer has, else the own pool.
    if i == from or (not reports_credits and not is_empty(view)) then
      reported, reports_credits = view, i > from
    end
  end
  return reported
end

-- A view as an outcome has it: {feature, how many parts count as a whole (0: all), totals ({}: there
-- are no more than are shown), and of each part the entity and its balances}. Lines refer to the
-- snapshot's parts and are changed where these are not the view's.
local function snapshot_of(view, lines)
  local parts, balances = view.parts, 0
  for n = 1, #parts do balances = balances + (#parts[n].s - 1) / B.size end
  if view.shared or balances > LIMIT.shown then return snapshot_of_many(view, lines or {}) end
  local snapshot = { view.feature, (view.shared_from or 1) - 1, NOTHING }
  if view.shared_from == 1 then snapshot[2] = -1 end
  for n = 1, #parts do snapshot[2 * n + 2], snapshot[2 * n + 3] = parts[n].owner.entity, parts[n].text end
  return snapshot
end
