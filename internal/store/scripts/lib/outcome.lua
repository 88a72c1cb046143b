-- uses: layout msgpack struct call ledger redelivery
-- The outcome of a step: whether it is there already, and keeping it. An outcome of a check begins with a
-- MARK (formats.quick, check, pair_head, lock_head), that of a command is a packed list (command.lua); so does what takes the place of
-- either where a request is repeated.

local function idempotency_key() return a[rare_at + RARE.answer_key] end

local function keep(c, outcome)
  if a[at + STEP.asked] % ASKED.entity >= ASKED.keep then remember(c, outcome) end
  return outcome
end

-- What is said of the record at hand without deciding it: the reply, nil where it is to be decided;
-- or nil and an error to answer it with.
local function begin(c)
  if a[at + STEP.asked] % ASKED.entity >= ASKED.keep then
    local seen = recall(c)
    if seen then
      -- What failed the first time may be the end that keys were to have.
      local place = idempotency_key()
      if place > 0 and seen ~= STALE then expire_key(c, KEYS[place], a[HEAD.window]) end
      c.replayed = true
      return seen
    end
  end
  if rare_at == none_rare then return nil end
  local place = idempotency_key()
  if place > 0 and exists(c) then
    local text = c.answers and c.answers[KEYS[place]] or stored[place] or call('GET', KEYS[place])
    if text then
      local first = values_of(text)
      if first[ANSWER.window_end] > now and first[ANSWER.life] == c.v[C.life] then
        if first[ANSWER.question] ~= a[rare_at + RARE.question] then return nil, 'idempotency_conflict' end
        return keep(c, struct_pack(formats.repeated, MARK.repeated, #first[ANSWER.memo], first[ANSWER.memo], #first[ANSWER.outcome], first[ANSWER.outcome]))
      end
    end
  end
  if a[rare_at + RARE.refusal] ~= '' then return nil, a[rare_at + RARE.refusal] end
  local deadline = a[rare_at + RARE.deadline]
  if deadline > 0 and now > deadline then return nil, 'deadline_exceeded' end
end

-- Keeps the packed outcome, and takes the idempotency key if something was changed: the key counts
-- for this life of the customer.
local function finish(c, outcome, changed)
  if rare_at == none_rare then return keep(c, outcome) end
  local place = idempotency_key()
  if place > 0 and changed and exists(c) then
    local text = text_of({ now + a[HEAD.window], c.v[C.life], a[rare_at + RARE.question], a[rare_at + RARE.memo], outcome })
    c.answers = c.answers or {}
    c.answers[KEYS[place]] = text
    put_key(c, KEYS[place], text)
    expire_key(c, KEYS[place], a[HEAD.window])
  end
  return keep(c, outcome)
end
