-- refuse: a command that is not carried out, for a reason that lies outside Redis (the
-- catalogue, the clock): another worker, or a later one, may see it otherwise.
-- uses: fields msgpack ledger calendar pool deduct outcome choose command
--
-- KEYS, ARGV 1..10, returns: see lib/outcome.lua.
-- ARGV[11] why: <code>: <message>
--
-- Outcome: see lib/command.lua.
-- Invariant: what was decided before stays decided.
local seen = begin()
if seen then return seen end
return finish(command_failure(ARGV[11]), false)
