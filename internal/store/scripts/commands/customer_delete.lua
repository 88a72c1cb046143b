-- uses: layout msgpack call command job
-- customer.delete: removes a customer and all of its state.
-- args: none
-- Invariant: only its ledgers outlive the customer for a while, so that a redelivery is recognised. What
-- other keys hold belongs to its life, and means nothing to the next, even before it is removed.
commands['customer.delete'] = function(c)
  if c.v[C.entities] ~= '' then
    local next_number, _, first = unpack(c.v[C.entities])
    local chunk, behind_last = math.floor(first / DIRECTORY.size), math.floor((next_number - 1) / DIRECTORY.size) + 1
    if behind_last - chunk > LIMIT.removals then
      put_job(c, chunk, behind_last, '', {})
      error(NEEDS_MORE)
    end
    remove_entities(c, chunk, behind_last, LIMIT.removals)
  end
  end_customer(c)
  return NOTHING, NOTHING, NOTHING, true
end
