-- uses: layout msgpack call command locks
-- lock.get: what a lock holds, or what became of it.
-- args: the lock's id
-- Outcome: extra see extra_of_lock.
commands['lock.get'] = function(c, id)
  local lock = lock_of(c, id)
  if not lock then return nil, 'lock_not_found' end
  return NOTHING, NOTHING, extra_of_lock(id, lock, 0, '', NOTHING), false
end

-- lock.expire: the same. What has expired is released before any command.
commands['lock.expire'] = commands['lock.get']
