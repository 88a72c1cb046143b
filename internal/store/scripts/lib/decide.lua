-- uses: layout msgpack struct call ledger outcome pool deduct choose plans job locks
-- lazy: whole
-- Deciding a check, whatever it is.

-- Ends a step without a pool; rest is {totals, flag, plans}.
local function end_without_pool(c, code, rest)
  local text = rest and text_of(rest) or ''
  return finish(c, struct_pack(formats.check, MARK.decided, #code, code, now, 0, 0, '', 0, 0, #text, text, 0, 0), false)
end

-- The outcome of what was drawn from a view; plans: ids for a preview.
local function outcome_of_view(view, code, plans)
  local feature, parts, lines, amount = view.feature, view.parts, view.lines, view.amount
  if #parts == 1 and not view.shared_from and not view.shared and #lines <= 4 and not plans and (#parts[1].s - 1) / B.size <= LIMIT.shown then -- nearly always
    local p = parts[1]
    local entity, text = p.owner.entity, p.text
    if #lines > 0 then
      return struct_pack(formats.check_with_line, MARK.decided, #code, code, now, view.need, #feature, feature, amount, 0, 0, '', 1, 1,
        #entity, entity, #text, text, lines[1], lines[2], lines[3], lines[4])
    end
    return struct_pack(formats.check_of_one, MARK.decided, #code, code, now, view.need, #feature, feature, 0, 0, 0, '', 1, 0,
      #entity, entity, #text, text)
  end
  local snapshot = snapshot_of(view)
  local totals = snapshot[SNAPSHOT.totals]
  local rest = (#totals > 0 or plans) and text_of({ totals, NOTHING, plans or NOTHING }) or ''
  local pieces = { struct_pack(formats.check, MARK.decided, #code, code, now, view.need, #feature, feature, amount,
    snapshot[SNAPSHOT.whole], #rest, rest, (#snapshot - SNAPSHOT.size) / 2, #lines / 4) }
  for i = SNAPSHOT.size + 1, #snapshot, 2 do
    pieces[#pieces + 1] = struct_pack(formats.part, #snapshot[i], snapshot[i], #snapshot[i + 1], snapshot[i + 1])
  end
  for i = 1, #lines, 4 do
    pieces[#pieces + 1] = struct_pack(formats.line, lines[i], lines[i + 1], lines[i + 2], lines[i + 3])
  end
  return table.concat(pieces)
end

-- The outcome of a choice. What its lines tell was taken, or would be.
local function outcome_of_choice(choice, plans)
  local outcome, other = outcome_of_view(choice[1], choice.code, plans), choice[2]
  if not other then return outcome end
  return struct_pack(formats.pair_head, MARK.pair, #outcome) .. outcome .. outcome_of_view(other, choice.code)
end

-- Ends a step with a choice.
local function end_with_choice(c, choice, is_changed, plans)
  return finish(c, outcome_of_choice(choice, plans), is_changed)
end

local function attached_plans(c, entity)
  local ids = {}
  for _, owner in ipairs({ c, entity or nil }) do
    if owner.v[C.rest] ~= '' then
      for _, plan in ipairs(values_of(owner.v[C.rest])[1]) do ids[#ids + 1] = plan[P.id] end
    end
  end
  return ids
end

local function decide_flag(c, entity, feature, asked)
  if asked % 2 == ASKED.deduct then return end_without_pool(c, 'flag_not_consumable') end
  for _, owner in ipairs({ c, entity or nil }) do
    if owner.v[C.rest] ~= '' then
      for _, flag in ipairs(values_of(owner.v[C.rest])[2]) do
        if flag[F.feature] == feature and (flag[F.expires] == 0 or flag[F.expires] > now) then
          return end_without_pool(c, 'flag', { NOTHING, { flag[F.plan], flag[F.expires] }, NOTHING })
        end
      end
    end
  end
  return end_without_pool(c, 'not_entitled', asked % ASKED.keep >= ASKED.preview and { NOTHING, NOTHING, attached_plans(c, entity) })
end

-- Holds what a check asks for instead of spending it. The values of RARE.args: the lock's id, when it expires (0: as late as may
-- be), overage_behavior, properties, what stands against it ('' for nothing), and the feature's precision.
local function decide_lock(c, entity)
  local id, expires, behaviour, properties, problem, precision = unpack(values_of(a[rare_at + RARE.args]))
  if expires == 0 then expires = now + LIMIT.lock_ms end
  local refusal = refusal_of_lock(c, id, expires, problem)
  if refusal then return end_without_pool(c, refusal) end
  local from, to = at + STEP.size + 1, at + STEP.size + a[at + STEP.needs]
  local choice = choose(c, entity, a, from, to)
  if not choice[1].need then return end_without_pool(c, choice.code) end
  if not choice.allowed then
    return end_with_choice(c, choice, false, a[at + STEP.asked] % ASKED.keep >= ASKED.preview and attached_plans(c, entity) or nil)
  end
  for _, view in ipairs(choice) do view.hold = {} end
  if not apply(choice) then return end_without_pool(c, 'amount_out_of_range') end
  resumable = false -- also if nothing was taken
  -- Before the outcome, whose lines are those of its snapshots.
  make_lock(c, choice, id, entity and entity.entity or '', a[from + 1], candidates_of(a, from, to), expires, behaviour, properties, precision)
  return finish(c, struct_pack(formats.lock_head, MARK.lock, expires) .. outcome_of_choice(choice), true)
end

local function decide_pool(c, entity, asked)
  local choice = choose(c, entity, a, at + STEP.size + 1, at + STEP.size + a[at + STEP.needs])
  if not choice[1].need then return end_without_pool(c, choice.code) end
  if not choice.allowed then return end_with_choice(c, choice, false, asked % ASKED.keep >= ASKED.preview and attached_plans(c, entity) or nil) end
  local deducts = asked % 2 == ASKED.deduct
  if not apply(choice, not deducts) then return end_without_pool(c, 'amount_out_of_range') end
  return end_with_choice(c, choice, deducts and is_taken(choice))
end

-- The reply to the check at hand, which is new.
local function decide_check(c)
  if exists(c) then
    expire_if_due(c)
    if c.v[C.job] ~= '' then run_job(c) end
  end
  if not exists(c) then return end_without_pool(c, 'customer_not_found') end
  local entity, id = nil, a[entity_at + ENTITY.id]
  if id ~= '' then
    entity = entity_of(c, id, a[entity_at + ENTITY.key])
    if not entity then return end_without_pool(c, 'entity_not_found') end
  end
  local feature, asked = a[rare_at + RARE.kind], a[at + STEP.asked]
  if feature ~= '' then return decide_flag(c, entity, feature, asked) end
  if a[rare_at + RARE.args] ~= '' then return decide_lock(c, entity) end
  return decide_pool(c, entity, asked)
end
