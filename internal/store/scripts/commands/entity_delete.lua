-- uses: layout msgpack call command plans
-- entity.delete: takes an entity away, with its balances and plans, and gives its seat back.
-- args: the seat-like feature that the caller believes it to have, '' where it did not say; pairs in a
--   list, each seat-like feature and its candidates for minus one seat
-- Outcome: one event, the seat.
-- Invariant: nothing of a deleted entity is left.
commands['entity.delete'] = function(c, expected, seats)
  local id = a[at + STEP.entity]
  local entity = entity_of(c, id, a[at + STEP.entity_key])
  if not entity then return nil, 'entity_not_found' end
  local feature = values_of(entity.v[E.about])[1]
  if expected ~= '' and expected ~= feature then return nil, 'conflict' end

  for i = E.pools, #entity.v, 2 do
    local held = entity.v[i]
    if any_shared(balances_held(entity, held)) then count_holder(c, held, -1) end
  end
  put_chunk(c, entity.v[E.number], '')
  local number, live = unpack(values_of(c.v[C.entities]))
  c.v[C.entities], c.changed = text_of({ number, live - 1 }), true
  c.owners[id] = false
  drop_key(c, entity.key)

  for i = 1, #seats, 2 do
    if seats[i] == feature then
      local candidates = seats[i + 1]
      local view = choose(c, nil, candidates, 1, #candidates)
      if view.allowed then
        local lines, amount = apply(view, view.need)
        local event = { feature, candidates[2], '', amount, snapshot_of(view, lines), lines }
        return { snapshot_of(view) }, { event }, NOTHING, true
      end
    end
  end
  return NOTHING, NOTHING, NOTHING, true
end
