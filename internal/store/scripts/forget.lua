-- forget: drops the entries of a ledger all of which are committed.
-- uses: fields
--
-- KEYS[1] the customer, KEYS[2] the entries of the ledger
-- ARGV[1] the committed offset, ARGV[2] how long to keep what is left of a customer that does
--         not exist, in milliseconds, ARGV[3] the topic partition (store.Source)
-- Returns 1 where they were dropped, 0 where an entry is not committed.
-- Invariant: what ledger.lua answers to any record stays the same, but that it cannot
-- repeat the outcome of one that is committed.
local last = redis.call('HGET', KEYS[1], 'l' .. ARGV[3])
if not last or tonumber(string.match(last, '^%d+')) >= tonumber(ARGV[1]) then return 0 end
redis.call('DEL', KEYS[2])
if redis.call('HEXISTS', KEYS[1], 'c') == 0 then redis.call('PEXPIRE', KEYS[1], ARGV[2]) end
return 1
