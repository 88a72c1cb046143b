-- uses: layout struct call ledger outcome sums
-- The usual check: one balance covers it, and nothing else of the pool has to be looked at. It is decided from
-- the packed pool. Whatever is not so simple is left to decide.lua, which would decide these checks alike.

-- A packed pool from which a check may be decided: its format, the byte at which the balance begins that the next
-- deduction starts with (1: nothing is left), and the balance's number from 0. nil if more has to be looked at.
local function look_into(text)
  if text == '' then return nil end
  local size = format_of_pool(text)
  local _, due, first_at, number = struct_unpack(size.head, text)
  if first_at == 0 or (due > 0 and due <= now) then return nil end
  return size, first_at, number
end

-- Takes need, which an entity consumes from a balance that begins at first_at of its packed pool, off the sums of what is
-- shared. False if that is not possible without unpacking them: they are unpacked, or the entity belongs into a queue from now on.
local function take_of_sums(c, feature, need, size, text, first_at)
  local place = place_of_sums(c, feature)
  if not place or (c.sums and c.sums[feature]) then return false end
  local all = c.v[C.shared]
  if string.byte(all[place + 1], formats.sums_size) == 1 then
    local included_left, included, _, _, flags = struct_unpack(size.each, text, first_at)
    if included_left == included or flags >= FLAG.more then return false end -- what was used so far may be held
  end
  all[place + 1] = sums_after(all[place + 1], need)
  c.changed = true
  return true
end

-- What was prepaid of the balance that begins at first_at: the amount that is left, and the byte at which it is.
local function prepaid_in(size, text, first_at)
  local _, _, _, _, _, _, at_byte = struct_unpack(size.each, text, first_at)
  return struct_unpack(size.amount, text, at_byte), at_byte
end

-- The pool that the check at hand is about if it is one of these: that of the first candidate of which there are balances.
-- Returns its owner, its place among the owner's values, that of the customer's own if it is an entity's, the feature, and the
-- need. nil if many entities share in it, or if there is none.
local function first_pool(c, entity)
  local first = at + STEP.size + 1
  local k, last = first, first + a[at + STEP.needs] - 1
  while k < last do
    local feature, need = a[k], a[k + 1]
    local own, held = place_of_pool(c.v, feature), entity and place_of_pool(entity.v, feature)
    if held then return entity, held, own, feature, need end
    if not entity and place_of_sums(c, feature) then return nil end
    if own then return c, own, nil, feature, need end
    k = k + (k == first and 2 or 3) -- a credit system has its factor, too (choose.lua)
  end
end

-- Puts a pool that was changed while it was packed back among its owner's values.
local function put_packed(owner, feature, place, text)
  owner.v[place], owner.changed = text, true
  local p = owner.pools[feature]
  if p then p.text, p.s = text, false end
end

-- The outcome of a check of a pool, and beside it of the customer's own. kind: of what was taken, or would be.
local function quick_outcome(c, owner, text, other, feature, need, kind, number)
  local holder = owner.entity
  local head = struct_pack(formats.quick, MARK.quick, now, need, kind, number, other and 2 or 1, #feature, feature, #holder, holder, #text)
  if not other then return head .. text end
  local own = c.v[other]
  return head .. text .. struct_pack(formats.quick_part, 0, '', #own) .. own
end

-- The reply to the check at hand, which is new; nil if it is not one of these.
local function decide_quickly(c)
  local v = c.v
  if not exists(c) or (v[C.job] ~= '' and v[C.job][JOB.next] >= 0) then return nil end
  if v[C.locks] ~= '' and v[C.locks][LOCKS.due] <= now then return nil end
  if rare_at ~= none_rare and a[rare_at + RARE.args] ~= '' then return nil end -- a lock
  local entity, id = nil, a[entity_at + ENTITY.id]
  if id ~= '' then
    entity = entity_of(c, id, a[entity_at + ENTITY.key])
    if not entity then return nil end
  end
  local owner, place, other, feature, need = first_pool(c, entity)
  if not owner or not need or need <= 0 then return nil end
  local text = owner.v[place]
  local size, first_at, number = look_into(text)
  if not size or first_at == 1 or (other and not look_into(v[other])) then return nil end
  -- What was included goes before what was prepaid; one of them must cover it.
  local kind, left, at_byte = KIND.included, struct_unpack(size.amount, text, first_at), first_at
  if left == 0 then
    kind = KIND.prepaid
    left, at_byte = prepaid_in(size, text, first_at)
  end
  if left < need then return nil end
  local asked = a[at + STEP.asked]
  local deducts = asked % 2 == ASKED.deduct
  if deducts then
    -- If nothing is left, the next deduction starts with another balance.
    if left == need then return nil end
    local is_shared_one = entity and owner == entity and string.byte(text, first_at + size.flags) % FLAG.overage >= FLAG.shared
    if is_shared_one and not take_of_sums(c, feature, need, size, text, first_at) then return nil end
    text = string.sub(text, 1, at_byte - 1) .. struct_pack(size.amount, left - need) .. string.sub(text, at_byte + size.amount_size)
    put_packed(owner, feature, place, text)
  end
  local outcome = quick_outcome(c, owner, text, other, feature, need, kind, number)
  return asked < ASKED.keep and outcome or finish(c, outcome, deducts)
end
