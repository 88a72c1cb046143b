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
    local choice = choose(c, entity, candidates, 1, #candidates)
    local refusal = track(choice, behaviour)
    if refusal == '' then tracked = true else first_code = first_code or refusal end
    changed = changed or is_taken(choice)
    events[n] = event_of(candidates, refusal, choice, snapshots)
  end
  if not tracked then return nil, first_code, snapshots, events end
  return snapshots, events, NOTHING, changed
end
