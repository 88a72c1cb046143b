-- uses: layout msgpack call command plans
-- entity.create: an entity of a customer, and the seat that it takes.
-- args: the seat-like feature; its name, '' where it has none; a list of {plan id, rank, I}: the
--   catalogue's per-entity items of that feature; candidates for one seat, see lib/choose.lua
-- Outcome: one event, the seat.
-- Invariant: an entity exists only with its seat counted.
commands['entity.create'] = function(c, feature, name, per_entity, candidates)
  local id = a[entity_at + ENTITY.id]
  if entity_of(c, id, a[entity_at + ENTITY.key]) then return nil, 'conflict' end
  resumable = true -- until something is applied
  local choice = choose(c, nil, candidates, 1, #candidates)
  if not choice.allowed then return nil, choice.code, snapshots_of(choice) end
  if not apply(choice) then return nil, 'amount_out_of_range' end
  local event = event_of(candidates, '', choice, {})

  local number, live, first = unpack(c.v[C.entities] ~= '' and c.v[C.entities] or { 0, 0, 0 })
  c.v[C.entities], c.changed = { number + 1, live + 1, first }, true
  local entity = {
    key = c.key .. ':e:' .. id, entity = id, pools = {}, changed = true, customer = c,
    v = { LIMIT.format, c.v[C.life], now, number, text_of({ feature, name }), '', '', '' },
  }
  c.owners[id] = entity
  put_id(c, number, id)
  for _, attached in ipairs((plans_of(c))) do
    for _, row in ipairs(per_entity) do
      local item = row[3]
      if row[1] == attached[P.id] then
        local b = new_balance(c, row[1], row[2], item, 1, attached[P.started], now, bought_of(attached, item), attached[P.times])
        local code = add_balance(c, entity, item[I.feature], b)
        if code then return nil, code end
      end
    end
  end
  for n, view in ipairs(choice) do choice[n] = view_of(c, view.feature) end -- the entity's balances are in it, too
  return snapshots_of(choice), { event }, NOTHING, true
end
