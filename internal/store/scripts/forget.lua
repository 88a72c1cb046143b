-- forget: drops a ledger all of which is committed.
-- uses: ledger
--
-- KEYS[1] the customer, KEYS[2] the ledger
-- ARGV[1] the committed offset, ARGV[2] how long to keep the mark of a customer that does
--         not exist, in milliseconds
-- Returns 1 where it was dropped, 0 where an entry is not committed.
-- Invariant: what ledger.lua answers to any record stays the same, but that it cannot
-- repeat the outcome of one that is committed.
local last, generation = last_entry(KEYS[2])
if not last or last >= tonumber(ARGV[1]) then return 0 end
redis.call('HSET', KEYS[1], forgotten_field(KEYS[2]), string.format('%.0f', last) .. ':' .. generation)
if redis.call('HEXISTS', KEYS[1], 'c') == 0 then redis.call('PEXPIRE', KEYS[1], ARGV[2]) end
redis.call('DEL', KEYS[2])
return 1
