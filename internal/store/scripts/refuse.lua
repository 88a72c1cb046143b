-- refuse: a command that is not carried out, for a reason that lies outside Redis (the
-- catalogue, the clock): another worker, or a later one, may see it otherwise.
-- uses: fields msgpack step ledger outcome run calendar pool deduct choose command
--
-- KEYS, ARGV, returns: see lib/step.lua.
-- args[1] why: <code>: <message>
--
-- Outcome: see lib/command.lua.
-- Invariant: what was decided before stays decided.
local function decide()
  return finish(command_failure(args[1]), false)
end

return run(decide)
