-- claim: finds locks that are due to expire, and puts them off, so that no other worker finds them for a while.
--
-- KEYS[1] = tollgate:locks, a sorted set of locks by when they are to be looked at (docs/adr/0011)
-- ARGV[1] now, ARGV[2] for how long they are put off, ms, ARGV[3] how many at the most
-- Returns the members of the set, and when each was due, in turn.
local due = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', ARGV[1], 'WITHSCORES', 'LIMIT', 0, ARGV[3])
for i = 1, #due, 2 do redis.call('ZADD', KEYS[1], 'XX', string.format('%.0f', ARGV[1] + ARGV[2]), due[i]) end
return due
