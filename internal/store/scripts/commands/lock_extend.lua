-- uses: layout msgpack call command locks
-- lock.extend: changes when a lock expires.
-- args: the lock's id; when it is to expire
-- Outcome: extra see extra_of_lock.
commands['lock.extend'] = function(c, id, expires)
  local lock = lock_of(c, id)
  if not lock then return nil, 'lock_not_found' end
  if lock[LOCK.state] ~= STATE.held then return nil, lock[LOCK.state] == STATE.expired and 'lock_expired' or 'lock_settled' end
  if expires <= now then return nil, 'invalid_request: expires_at has passed already' end
  if expires > now + LIMIT.lock_ms then return nil, 'invalid_request: expires_at is more than 24 hours ahead' end
  local extended = { unpack(lock, 1, LOCK.size) }
  extended[LOCK.expires] = expires
  put_lock(c, id, extended)
  unlist_locks(c, { [id] = true })
  list_lock(c, { id, expires, lock[LOCK.feature], lock[LOCK.entity], lock[LOCK.value] })
  return NOTHING, NOTHING, extra_of_lock(id, extended, 0, '', NOTHING), true
end
