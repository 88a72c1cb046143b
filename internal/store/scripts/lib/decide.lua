-- uses: layout msgpack struct call ledger outcome pool deduct choose plans job
-- lazy: whole
-- Deciding a check, whatever it is.

-- Ends a step without a pool; rest is {totals, flag, plans}.
local function end_without_pool(c, code, rest)
  local text = rest and text_of(rest) or ''
  return finish(c, struct_pack(formats.check, MARK.decided, #code, code, now, 0, 0, '', 0, 0, #text, text, 0, 0), false)
end

-- Ends a step with a view, what was taken of it, and the ids of plans for a preview.
local function end_with_view(c, view, lines, amount, plans)
  local code, feature, parts, changed = view.code, view.feature, view.parts, #lines > 0
  if #parts == 1 and not view.shared_from and not view.shared and #lines <= 4 and not plans and (#parts[1].s - 1) / B.size <= LIMIT.shown then -- nearly always
    local p = parts[1]
    local entity, text = p.owner.entity, p.text
    if changed then
      return finish(c, struct_pack(formats.check_with_line, MARK.decided, #code, code, now, view.need, #feature, feature, amount, 0, 0, '', 1, 1,
        #entity, entity, #text, text, lines[1], lines[2], lines[3], lines[4]), true)
    end
    return finish(c, struct_pack(formats.check_of_one, MARK.decided, #code, code, now, view.need, #feature, feature, 0, 0, 0, '', 1, 0,
      #entity, entity, #text, text), false)
  end
  local snapshot = snapshot_of(view, lines)
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
  return finish(c, table.concat(pieces), changed)
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

local function decide_pool(c, entity, asked)
  local view = choose(c, entity, a, at + STEP.size + 1, at + STEP.size + a[at + STEP.needs])
  if not view.need then return end_without_pool(c, view.code) end
  local lines, amount, plans = NOTHING, 0, nil
  if view.allowed and asked % 2 == ASKED.deduct then
    lines, amount = apply(view, view.need)
    if not lines then return end_without_pool(c, 'amount_out_of_range') end
  elseif not view.allowed and asked % ASKED.keep >= ASKED.preview then
    plans = attached_plans(c, entity)
  end
  return end_with_view(c, view, lines, amount, plans)
end

-- The reply to the check at hand, which is new.
local function decide_check(c)
  if exists(c) and c.v[C.job] ~= '' then run_job(c) end
  if not exists(c) then return end_without_pool(c, 'customer_not_found') end
  local entity, id = nil, a[entity_at + ENTITY.id]
  if id ~= '' then
    entity = entity_of(c, id, a[entity_at + ENTITY.key])
    if not entity then return end_without_pool(c, 'entity_not_found') end
  end
  local feature, asked = a[rare_at + RARE.kind], a[at + STEP.asked]
  if feature ~= '' then return decide_flag(c, entity, feature, asked) end
  return decide_pool(c, entity, asked)
end
