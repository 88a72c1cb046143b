-- uses: layout struct call ledger outcome sums
-- The usual check: one balance covers it, and nothing else of the pool has to be looked at. It is decided from
-- the packed pool. Whatever is not so simple is left to decide.lua, which would decide these checks alike.

-- The ledger's word on the record at hand: whether it certainly is new.
local function is_new(c)
  local l, offset = open_ledger(c), a[at + STEP.offset]
  if not l then return false end
  if log then return offset > l and offset >= log_floor end
  return offset > l[L.last] and offset >= l[L.floor]
end

-- A packed pool from which a check may be decided: its format, the byte at which the balance begins that the next
-- deduction starts with (1: nothing is left), and the balance's number from 0. nil if more has to be looked at.
local function look_into(text)
  if text == '' then return nil end
  local size = format_of_pool(text)
  local _, due, first_at, number = struct_unpack(size.head, text)
  if first_at == 0 or (due > 0 and due <= now) then return nil end
  return size, first_at, number
end

-- Takes need from left, which is at a byte of the packed pool at a place of an owner's values, in the balance that begins
-- at first_at. Returns the packed pool; nil if more than numbers may change: what the next deduction starts with, or a queue.
local function take_packed(c, owner, feature, place, need, size, left, at_byte, first_at)
  if left == need then return nil end
  local text = owner.v[place]
  if owner ~= c and string.byte(text, first_at + size.flags) % FLAG.overage >= FLAG.shared then
    if c.sums and c.sums[feature] then return nil end
    local all, sums = c.v[C.shared], place_of_sums(c, feature) + 1
    if string.byte(all[sums], formats.sums_size) == 1 then
      local included_left, included = struct_unpack(size.each, text, first_at)
      if included_left == included then return nil end
    end
    all[sums] = sums_after(all[sums], need)
    c.changed = true
  end
  text = string.sub(text, 1, at_byte - 1) .. struct_pack(size.amount, left - need) .. string.sub(text, at_byte + size.amount_size)
  owner.v[place], owner.changed = text, true
  local p = owner.pools[feature]
  if p then p.text, p.s = text, false end
  return text
end

-- The pool that the check at hand is about if it is one of these: that of the first candidate of which there are balances.
-- Returns its owner, its place among the owner's values, that of the customer's own if it is an entity's, the feature, and the
-- need. nil if many entities share in it, or if there is none.
local function first_pool(c, entity)
  local first = at + STEP.size + 1
  for k = first, first + a[at + STEP.needs] - 2, 2 do
    local feature, need = a[k], a[k + 1]
    local own, held = place_of_pool(c.v, feature), entity and place_of_pool(entity.v, feature)
    if held then return entity, held, own, feature, need end
    if not entity and place_of_sums(c, feature) then return nil end
    if own then return c, own, nil, feature, need end
  end
end

-- The outcome of a check of a pool, and beside it of the customer's own. kind: 0 if nothing was taken.
local function quick_outcome(c, owner, text, other, feature, need, kind, number)
  local holder = owner.entity
  local head = struct_pack(formats.quick, MARK.quick, now, need, kind, number, #feature, feature, #holder, holder, #text)
  if not other then return head .. text end
  local own = c.v[other]
  return head .. text .. struct_pack(formats.quick_part, 0, '', #own) .. own
end

-- The reply to the check at hand; nil if it is not one of these.
local function decide_quickly(c)
  local v, asked = c.v, a[at + STEP.asked]
  if not v or v[C.life] == '' or v[C.job] ~= '' then return nil end
  if asked >= ASKED.rare then
    if a[rare_at + RARE.kind] ~= '' then return nil end
    local seen, refusal = begin(c)
    if seen or refusal then return seen end
  elseif asked % ASKED.entity >= ASKED.keep and not is_new(c) then
    return nil
  end
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
    local _, _, _, _, _, _, behind_it = struct_unpack(size.each, text, first_at)
    kind, left, at_byte = KIND.prepaid, struct_unpack(size.amount, text, behind_it), behind_it
  end
  if left < need then return nil end
  if asked % 2 == ASKED.deduct then
    text = take_packed(c, owner, feature, place, need, size, left, at_byte, first_at)
    if not text then return nil end
  else
    kind = 0
  end
  return finish(c, quick_outcome(c, owner, text, other, feature, need, kind, number), kind > 0)
end
