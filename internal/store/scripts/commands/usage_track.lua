-- uses: layout msgpack call command
-- usage.track: usage without asking (semantics: Usage without asking).
-- args: what to do where not all of it is allowed: cap, reject or allow; a list with an entry per
--   feature: its candidates, see lib/choose.lua
-- Outcome: an event per feature, deducted from or not.
-- Invariant: each feature is a step of its own; reject takes all of it or nothing, cap never passes a bound.
commands['usage.track'] = function(c, behaviour, features)
  local owner = owner_asked(c)
  if not owner then return nil, 'entity_not_found' end
  local entity = owner ~= c and owner or nil
  resumable = true -- until something is applied
  local events, snapshots, tracked, changed, first_code = {}, {}, false, false, nil
  for n, candidates in ipairs(features) do
    local view = choose(c, entity, candidates, 1, #candidates)
    local lines, amount = {}, 0
    local refused = not view.need or view.code == 'not_entitled' or (behaviour == 'reject' and not view.allowed)
    if not refused then
      lines, amount = apply(view, view.need, behaviour == 'allow')
      if not lines then refused, view.code, lines, amount = true, 'amount_out_of_range', {}, 0 end
    end
    if refused then first_code = first_code or view.code else tracked = true end
    changed = changed or #lines > 0
    local snapshot = snapshot_of(view, lines)
    snapshots[n] = snapshot
    events[n] = { candidates[1], candidates[2], refused and view.code or '', amount, snapshot, lines }
  end
  if not tracked then return nil, first_code, snapshots, events end
  return snapshots, events, NOTHING, changed
end
