-- succeed: notes the lifetime in which records of a partition are decided (docs/adr/0008), in the place of the one
-- before it.
--
-- KEYS[1] = tollgate:lifetimes, a hash of "<id> <group>" by partition
-- ARGV[1] the partition, ARGV[2] the id before, ARGV[3] the next id, ARGV[4] its group
-- Returns what is noted then.
-- Invariant: a lifetime that was succeeded by one that does not name it never comes back.
local noted = redis.call('HGET', KEYS[1], ARGV[1])
local id = noted and string.match(noted, '^[^ ]+')
if id == ARGV[3] or (id and id ~= ARGV[2]) then return noted end
local succeeding = ARGV[3] .. ' ' .. ARGV[4]
redis.call('HSET', KEYS[1], ARGV[1], succeeding)
return succeeding
