-- uses: layout msgpack call command
-- customer.delete: removes a customer and all of its state.
-- args: none
-- Invariant: only its ledgers outlive the customer for a while, so that a redelivery is recognised. What
-- other keys hold belongs to its life, and means nothing to the next, even before it is removed.
commands['customer.delete'] = function(c)
  drop_key(c, c.key .. ':p')
  if c.v[C.entities] ~= '' then
    local next_number, _, first = unpack(c.v[C.entities])
    for chunk = math.floor(first / DIRECTORY.size), math.floor((next_number - 1) / DIRECTORY.size) do
      local ids = ids_of_chunk(c, chunk)
      for i = 2, #ids do
        if ids[i] ~= '' then drop_key(c, c.key .. ':e:' .. ids[i]) end
      end
      drop_key(c, c.key .. ':d:' .. chunk)
    end
  end
  c.v, c.ledger = bare_customer('', c.v), nil
  c.changed, c.pools, c.sums, c.owners, c.chunks, c.writes, c.expires, c.profile = true, {}, nil, nil, nil, nil, nil, nil
  put_key(c, c.key .. ':p', '') -- who it was is gone with this, whatever becomes of the removal behind it
  return NOTHING, NOTHING, NOTHING, true
end
