-- uses: layout msgpack call command plans
-- entity.delete: takes an entity away, with its balances and plans, and gives its seat back.
-- args: the seat-like feature that the caller believes it to have, '' where it did not say; pairs in a
--   list, each seat-like feature and its candidates for minus one seat
-- Outcome: one event, the seat.
-- Invariant: nothing of a deleted entity is left.
commands['entity.delete'] = function(c, expected, seats)
  local id = a[entity_at + ENTITY.id]
  local entity = entity_of(c, id, a[entity_at + ENTITY.key])
  if not entity then return nil, 'entity_not_found' end
  local feature = values_of(entity.v[E.about])[1]
  if expected ~= '' and expected ~= feature then return nil, 'conflict' end

  for i = E.pools, #entity.v, 2 do
    local p = pool_of(entity, entity.v[i])
    if p then sum_up(entity, p.feature, p.s, { 0 }) end
  end
  put_id(c, entity.v[E.number], '')
  local number, live, first = unpack(c.v[C.entities])
  for _ = 1, LIMIT.visits do -- those at the beginning that are gone
    if first == number or id_by_number(c, first) then break end
    first = first + 1
  end
  -- Chunks of the directory below the first entity have nothing in them.
  for chunk = math.floor(c.v[C.entities][3] / DIRECTORY.size), math.floor(first / DIRECTORY.size) - 1 do
    put_key(c, c.key .. ':d:' .. chunk, '')
    drop_key(c, c.key .. ':d:' .. chunk)
  end
  c.v[C.entities], c.changed = { number, live - 1, first }, true
  c.owners[id] = false
  put_key(c, entity.key, '') -- it is gone with this, whatever becomes of the removal behind it
  drop_key(c, entity.key)

  for i = 1, #seats, 2 do
    if seats[i] == feature then
      local candidates = seats[i + 1]
      local choice, snapshots = choose(c, nil, candidates, 1, #candidates), {}
      if choice.allowed then
        if not apply(choice) then return nil, 'amount_out_of_range' end
        local event = event_of(candidates, '', choice, snapshots)
        return snapshots, { event }, NOTHING, true
      end
    end
  end
  return NOTHING, NOTHING, NOTHING, true
end
