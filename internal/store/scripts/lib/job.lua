-- uses: layout msgpack call entities shared plans locks
-- lazy: plans
-- What takes more than one step for a customer with many entities (JOB).

-- Leaves a job of the record at hand, which is to be sent again.
local function put_job(c, ...)
  c.v[C.job] = { source, a[at + STEP.offset], a[at + STEP.timestamp], ... }
  c.changed = true
end

-- Does the job of a plan for one entity. If what it brings does not fit there (too many balances, an amount that passes what
-- fits), the entity only loses what the plan that was detached gave it. If its balances cannot be read, it is passed over.
local function change_entity(c, job, plan, entity)
  local v, undo_sums = copy_of(entity.v), checkpoint_of_sums(c)
  local removed, scope = job[JOB.removed], { entity }
  local is_read, code = pcall(change_scope, c, c, removed, plan, job[JOB.again] == 1, job[JOB.started], job[JOB.kept_features], scope)
  if not is_read and not is_unreadable(code) then error(code, 0) end
  if not is_read or code then
    entity.v, entity.pools = v, {}
    undo_sums()
  end
  if is_read and code and removed ~= '' then remove_balances(c, c, removed, NOTHING, scope) end
end

-- Goes on with the job of a plan, LIMIT.changes entities at a time. Returns whether it is done.
local function change_some(c, job)
  if a[HEAD.all_rows] == 0 then error(NEEDS_ROWS) end -- it may concern any feature
  local plan = #job[JOB.plan] > 0 and job[JOB.plan] or nil
  for _ = 1, LIMIT.changes do
    if job[JOB.next] >= job[JOB.behind] then return true end
    local entity = entity_to_visit(c, job[JOB.next])
    if entity then change_entity(c, job, plan, entity) end
    job[JOB.next] = job[JOB.next] + 1
  end
  return false
end

-- Has entities and chunks of the directory removed, so many of these at a time. Returns the chunk behind them.
local function remove_entities(c, chunk, behind_last, most)
  local last = min(behind_last, chunk + most) - 1
  for n = chunk, last do
    local ids = ids_of_chunk(c, n)
    for i = 2, #ids do
      if ids[i] ~= '' then drop_key(c, c.key .. ':e:' .. ids[i]) end
    end
    drop_key(c, c.key .. ':d:' .. n)
  end
  return last + 1
end

-- Ends a customer whose entities are removed. Its ledgers outlive it for a while, so that a redelivery is recognised.
local function end_customer(c)
  remove_locks(c)
  c.v, c.ledger = bare_customer('', c.v), nil
  c.changed, c.pools, c.sums, c.owners, c.chunks, c.writes, c.expires, c.profile = true, {}, nil, nil, nil, nil, nil, nil
  c.locks, c.held, c.held_changed = nil, nil, nil
  put_key(c, c.key .. ':p', '') -- who it was is gone with this, whatever becomes of the removal behind it
  drop_key(c, c.key .. ':p')
end

-- Goes on with the customer's job.
local function run_job(c)
  local job = c.v[C.job]
  if job == '' or job[JOB.next] < 0 then return end
  c.changed = true
  local is_done
  if job[JOB.removed] == '' and #job[JOB.plan] == 0 then
    job[JOB.next] = remove_entities(c, job[JOB.next], job[JOB.behind], LIMIT.removals)
    is_done = job[JOB.next] >= job[JOB.behind]
    if is_done then end_customer(c) end
  else
    is_done = change_some(c, job)
  end
  if not is_done then error(NEEDS_MORE) end
  c.v[C.job] = { job[JOB.source], job[JOB.offset], job[JOB.timestamp], -1 }
end

-- Whether the customer's job is its removal.
local function is_being_deleted(c)
  local job = c.v[C.job]
  return job ~= '' and job[JOB.next] >= 0 and job[JOB.removed] == '' and #job[JOB.plan] == 0
end

-- Whether the customer's job, done or not, is that of the record at hand.
local function is_job_of_record(c)
  local job = c.v and c.v[C.job] or ''
  return job ~= '' and job[JOB.source] == source and job[JOB.offset] == a[at + STEP.offset] and job[JOB.timestamp] == a[at + STEP.timestamp]
end
