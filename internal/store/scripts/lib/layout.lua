-- The state of a customer, position by position. Lists are packed with MessagePack, and what every check
-- reads and writes with struct (formats); the tables below name the positions. The assembler (scripts.go)
-- writes the number wherever a script says B.plan, so a name costs nothing at run time, and Go reads the
-- names and numbers from here (layout.go).
--
-- Every key of a customer has the same hash tag, so one slot holds them all:
--   <prefix>{<customer>}               the customer (C): ledgers, plans, and the pools it holds itself
--   <prefix>{<customer>}:p             its profile (PROFILE)
--   <prefix>{<customer>}:e:<entity>    an entity (E), with the pools that it holds
--   <prefix>{<customer>}:d:<n>         ids of entities n * DIRECTORY.size to (n + 1) * DIRECTORY.size - 1, by creation
--   <prefix>{<customer>}:i:<key>       the first answer of an idempotency key (ANSWER)
--   <prefix>{<customer>}:l             which locks it holds (HELD)
--   <prefix>{<customer>}:l:<id>        a lock (LOCK)
-- All are strings: one MSET writes whatever a call of a script changes, so that either all of it is
-- in effect or nothing. The outcomes that a redelivery may ask for are in
--   <prefix>log:<source>               the log of a topic partition (ledger.lua)
--
-- Amounts are integers in units of 10^-precision, times Unix milliseconds, 0 for never.

-- A customer, or what is left of one that does not exist (life ''): its ledgers.
local C = {
  format = 1,   -- LIMIT.format
  life = 2,     -- <when it was made>/<offset of the record that made it>: tells one life of an id from the next
  seq = 3,      -- grows with every balance and plan
  -- What few customers have; '' where there is nothing.
  entities = 4, -- list: number of the next entity, how many entities there are, a number below which there is none
  shared = 5,   -- list: for each feature of which entities hold shared balances its id, and its sums (formats.sums)
  rest = 6,     -- '' or packed {list of P, list of F}: plans and flags, which few steps look at
  job = 7,      -- JOB, a list
  locks = 8,    -- LOCKS, a list
  -- From here on pairs: a feature's id, and the balances that the customer holds of it (POOL); or the name of a
  -- ledger, and what it has of the customer (ledger.lua).
  pools = 9,
}

-- An entity; rest and pools are where they are in C.
local E = {
  format = 1,
  life = 2,     -- that of the customer: the key outlives a customer for a moment
  created = 3,
  number = 4,   -- by creation, from 0
  about = 5,    -- packed {the seat-like feature, name}
  rest = 6,
  pools = 9,
}

-- The pool of one owner and feature, as a list: POOL.due is when something of it is due first, 0 for
-- never; then B.size values for each balance, in deduction order. B.x counts from 1 behind the balance's
-- base. Packed it is formats.small or large, or '' if there is no balance.
--
-- The packed form also says which balance the next deduction starts with, and at which byte that balance
-- begins, so that most checks need not unpack the pool (quick.lua). That byte is 1 if nothing is left, and 0 if more
-- has to be looked at: a rollover, an unlimited balance, overage that was consumed, more than LIMIT.quick balances.
local POOL = { due = 1, base = 1 }

-- A balance. Invariant: every amount is an integer in 0..LIMIT.max, and with
--   usage     = included - included_left + prepaid - prepaid_left + over + from_rollovers
--   remaining = included_left + prepaid_left + what is left of its rollovers
-- granted + rolled in = remaining + usage - over holds by construction. held is at most usage.
local B = {
  included_left = 1,
  included = 2,       -- granted by the item or grant
  resets = 3,         -- next reset
  expires = 4,
  flags = 5,          -- sum of FLAG
  details = 6,        -- packed D: what a check does not look at
  -- What most balances do without (formats.small.more): 0, no bound, none.
  prepaid_left = 7,
  over = 8,           -- consumed beyond what was granted; all of the usage if it is unlimited
  from_rollovers = 9, -- consumed this period from rollovers
  prepaid = 10,       -- granted because it was bought
  max = 11,           -- max_purchase, -1: no bound
  rollovers = 12,     -- '' or a packed list: R, one after the other, oldest first (rollovers.lua)
  held = 13,          -- of the usage, by locks that are not settled (locks.lua)
  size = 13,
}

local FLAG = {
  unlimited = 1,
  shared = 2,  -- held by an entity, in the customer's pool too (a per-entity item)
  overage = 4, -- may go beyond what was granted
  more = 8,    -- only in a packed pool: the rest of the balance follows
}

local D = {
  plan = 1,            -- plan id, '' for a standalone grant
  id = 2,              -- number of the item among the plan's items of this feature, or a grant's id
  rank = 3,            -- 0 main plan, 1 add-on, 2 standalone grant
  seq = 4,             -- age
  anchor = 5,          -- periods are counted from here
  unit = 6,            -- UNIT
  count = 7,           -- units in a period
  rollover_max = 8,    -- -1: nothing is rolled over
  rollover_months = 9, -- 0: rollovers never expire
  times = 10,          -- how often the item was granted: more than once only for a one-off add-on
  added = 11,          -- of included, what balance.update added (or took) until the next reset
}

-- A run of rollovers that expire step after step.
local R = {
  held = 1,    -- what the first held when the period began
  each = 2,    -- what each of the others held
  n = 3,       -- how many there are
  taken = 4,   -- of them in this period, from the first on
  expires = 5, -- when the first expires
  step = 6,    -- to the expiry of the next
  size = 6,
}

-- What all entities together hold of a feature that the customer shares (shared.lua). Sums are two numbers:
-- millions, and the rest. Packed it is formats.sums.
local SHARED = {
  feature = 1,
  holders = 2, -- entities
  balances = 3,
  granted = 4, remaining = 6, usage = 8,
  open = 10, -- what bounded overage has room for
  max = 12,  -- max_purchase of those that are bounded
  held = 14,
  overage = 16, unbounded = 17, unlimited = 18, rolling = 19, -- how many balances allow overage, without a bound, are unlimited, have rollovers
  due = 20,      -- nothing of any of them is due before
  walk = 21,     -- number of the next entity of which what is due is to be applied, -1: none
  walk_due = 22, -- when something of those that were walked is due first
  -- Lists: a time, and how many balances, and so on.
  resets = 23,   -- when they reset
  expiries = 24, -- when the rollover expires that is taken from next; and below zero, that which is given back to next
  queues = 25,   -- list of QUEUE, for the kinds that were asked for
}

-- Entities that have something of a kind, in the order in which it is taken: those in front of the cursor are all in
-- the list. A place is an entity's number, below zero where the last comes first.
local QUEUE = { kind = 1, cursor = 2, places = 3 }

-- Kinds of a QUEUE; others are times: rollovers that expire then, and are the next of their balance to be taken from; or
-- below zero, to be given back to.
local WANTED = {
  left = 1,   -- something is left, rollovers apart, or unlimited
  open = 2,   -- room for overage
  holder = 3, -- a shared balance
  over = 4,   -- overage; from here on the last entity comes first
  used = 5,   -- something to give back otherwise, rollovers apart
  cut = 6,    -- something left of what was included, limited
  last = 6,
}

-- What one entity adds to SHARED.balances to SHARED.rolling, in their order.
local ADDS = { balances = 1, granted = 2, remaining = 4, usage = 6, open = 8, max = 10, held = 12, overage = 14, unbounded = 15, unlimited = 16, rolling = 17 }

-- What a ledger has of a customer; where there is a log, L.last alone is in its place (ledger.lua).
local L = {
  last = 1,    -- highest offset that was decided and kept
  floor = 2,   -- offset below which all is committed and forgotten
  entries = 3, -- formats.entry and outcome, one after the other
}

-- An attached plan.
local P = { id = 1, group = 2, rank = 3, started = 4, bought = 5, times = 6 }

-- What was bought of a plan's prepaid item.
local Q = { feature = 1, number = 2, quantity = 3 }

-- A flag: a boolean feature that a plan includes.
local F = { feature = 1, plan = 2, expires = 3 }

-- What is still to be done for the entities of a customer that has many, a plan having been attached or
-- detached, or the customer deleted: a bounded number at a time. Whoever comes next goes on with it before anything
-- else, so that nobody sees it half done. When it is done, what names the record is left for the record to end with.
local JOB = {
  source = 1, offset = 2, timestamp = 3, -- of the record
  next = 4,    -- number of the next entity, or of the next chunk of the directory; -1: it is done
  behind = 5,  -- number behind the last
  removed = 6, -- id of the plan that was detached, '' for none
  plan = 7,    -- PLAN that was attached, empty for none; neither: the customer is deleted
  again = 8,   -- 1: it had been attached before
  started = 9,
  kept_features = 10,
}

-- What of a customer's locks every step must know.
local LOCKS = {
  due = 1,   -- when the first of them expires
  count = 2, -- how many are held
}

-- An entry of the list of the locks that are held, behind the life of the customer, under <customer>:l.
local HELD = { id = 1, expires = 2, feature = 3, entity = 4, value = 5, size = 5 }

-- A lock, under <customer>:l:<id>: what it took and where from. It is kept for a while once it is settled.
local LOCK = {
  format = 1,      -- LIMIT.format
  life = 2,        -- that of the customer
  state = 3,       -- STATE
  feature = 4,     -- that was asked for
  entity = 5,
  value = 6,       -- units of the feature that were asked for
  expires = 7,
  behaviour = 8,   -- overage_behavior, if more is confirmed than is held
  properties = 9,
  candidates = 10, -- a list: the feature, and each credit system and its factor (convert.lua)
  own = 11,        -- what came from the feature's own pool
  lines = 12,      -- a list of LINE, in the order in which they were taken
  settled = 13,    -- when; it is forgotten LIMIT.lock_memory later
  question = 14,   -- action and value that it was settled with
  memo = 15,       -- what a repeat of that must know (opaque)
  outcome = 16,    -- and what it is answered
  precision = 17,  -- of the feature, which who settles it need not know
  size = 17,
}
local STATE = { held = 0, confirmed = 1, released = 2, expired = 3 }

-- What a lock took of a balance. That of an entity that is gone, of a balance that is gone, or that has been reset since, is
-- forfeited.
local LINE = {
  feature = 1, -- of the pool
  entity = 2,  -- that holds the balance
  seq = 3,     -- D.seq of the balance
  resets = 4,  -- B.resets then: it tells the period
  kind = 5,
  amount = 6,
  plan = 7, id = 8, -- D.plan and D.id
  pieces = 9,  -- of what came from rollovers: when each of them expires, and what it gave
  size = 9,
}

local PROFILE = { life = 1, name = 2, email = 3, metadata = 4 }

-- The first answer of an idempotency key. It counts until its window ends, for one life of the customer
-- and one question.
local ANSWER = { window_end = 1, life = 2, question = 3, memo = 4, outcome = 5 }

-- A plan item as the worker hands it over from the catalogue.
local I = {
  feature = 1, number = 2, included = 3, unlimited = 4, overage = 5, max = 6,
  unit = 7, count = 8, rollover_max = 9, rollover_months = 10,
  seats = 11,   -- per_entity: the seat feature, '' otherwise
  prepaid = 12, -- 1: adds the quantity bought
  flag = 13,    -- 1: a boolean feature
}

-- A plan as the worker hands it over: items a list of I, quantities the units bought of each item,
-- -1 where nothing was said.
local PLAN = { id = 1, group = 2, rank = 3, one_off = 4, items = 5, quantities = 6 }

-- What a call is given: a head, and a step for each record. Keys are places in KEYS.
local HEAD = {
  now = 1,       -- the time that the steps are decided at
  window = 2,    -- how long an idempotency key counts, ms
  source = 3,    -- the topic partition of the records (store.Source)
  committed = 4, -- offset up to which it is committed
  rows = 5,      -- packed list of {plan id, I}: the catalogue's items of today; false where they were not sent
  all_rows = 6,  -- 1: these are all rows, not only those of the features that are checked
  data = 7,      -- how many of KEYS, the first, hold what steps read
  log = 8,       -- place in KEYS of the log of the source, 0: there is none (ledger.lua)
  steps = 9,     -- how many steps follow
  size = 9,
}
local STEP = {
  key = 1,    -- of the customer
  offset = 2,
  timestamp = 3,
  asked = 4,  -- sum of ASKED
  needs = 5,  -- how many values follow: of a check its candidates (choose.lua)
  size = 5,
}
local ASKED = {
  deduct = 1,  -- send_event
  preview = 2, -- with_preview: the plans attached are added to a denial
  keep = 4,    -- the ledger keeps the outcome
  entity = 8,  -- ENTITY follows behind the candidates
  rare = 16,   -- RARE follows behind these
}
local ENTITY = { key = 1, id = 2, size = 2 } -- id '': the customer
-- What most steps do without.
local RARE = {
  answer_key = 1, -- of the idempotency key, 0 if the request has none
  deadline = 2,   -- the record is not decided after it, 0: whenever
  question = 3,   -- what tells the request from another with the same idempotency key
  memo = 4,       -- what a repeat must know of this request (opaque)
  kind = 5,       -- of a command (its script's name); of a check the feature if it is boolean, else ''
  refusal = 6,    -- <code>: <message> to answer with unless the record was decided before, '' for none
  args = 7,       -- of a command, packed (its script's head); of a check that asks for a lock (decide_lock); else ''
  size = 7,
}

-- A view as an outcome shows it (choose.lua): of each part follow the entity and the pool.
local SNAPSHOT = {
  feature = 1,
  whole = 2,  -- how many parts count as a whole, of the others only shared balances: 0 for all parts, -1 for none
  totals = 3, -- TOTALS, empty where all balances are shown
  size = 3,
}

local TOTALS = {
  shown_parts = 1,    -- the first so many parts are the breakdown
  rollover_parts = 2, -- so many behind them are there for their rollovers, further ones for the lines
  granted_millions = 3, granted = 4, -- sums in two numbers, see add_exactly (sums.lua)
  remaining_millions = 5, remaining = 6,
  usage_millions = 7, usage = 8,
  held_millions = 9, held = 10,
  unlimited = 11, overage = 12, -- 0 or 1
  bounded = 13,                 -- 1: no balance that allows overage is without max_purchase
  max_millions = 14, max = 15,
  next_reset = 16,
}

-- Kinds of a line. A line of a deduction is four values of a list: part of the snapshot, balance, amount, kind.
local KIND = { rollover = 1, included = 2, prepaid = 3, overage = 4, unlimited = 5 }

local LIMIT = {
  keys = 960,             -- in one command: Lua passes no more than some thousand values
  writes = 7000,          -- keys and texts in the MSET of a call
  small = 4294967295,     -- the largest amount of a small pool
  small_time = 281474976710655,
  format = 3,             -- of what stands in Redis
  max = 9007199254740991, -- the largest amount, the last integer that a double counts exactly
  balances = 1000,        -- of one owner and feature
  places = 2000,          -- of QUEUE
  quick = 50,             -- balances of a pool from which a check may be decided without unpacking it: two such are shown whole
  quick_bytes = 65536,    -- the balance that a deduction starts with begins before this byte of it
  visits = 100,           -- entities that one step looks at before it is sent again
  changes = 15,           -- entities that one step of a JOB changes
  removals = 16,          -- chunks of the directory whose entities one step of a JOB removes
  shown = 100,            -- balances of a pool that a snapshot has
  entities_shown = 100,   -- entities that customer.get lists
  locks = 1000,           -- that a customer holds
  lock_ms = 86400000,     -- the longest time that a lock is held
  lock_memory = 86400000, -- how long a lock that is settled is remembered, ms
  slack = 7200000,        -- how much longer keys last that a clock decides about
  pieces = 1000,          -- rollovers that a lock may draw from
}

-- Units of a period. none and one_off have no period.
local UNIT = { none = 0, minute = 1, hour = 2, day = 3, week = 4, month = 5, quarter = 6, semi_annual = 7, year = 8, one_off = 9 }

local DIRECTORY = { size = 32 }

-- Of plans and grants, as D.rank and PLAN.rank have it.
local RANK = { main = 0, add_on = 1, standalone = 2 }

-- Marks of an outcome: it was decided, or repeats what an idempotency key's first request was answered, or
-- is that of a check that was decided quickly, of one that drew from two pools, or of one that made a lock.
local MARK = { decided = 0, repeated = 1, quick = 2, pair = 3, lock = 4 }

-- What a call says of a step that is to be sent again (call.lua).
local RETRY = { alone = 0, rows = 1, more = 2 }

-- What is packed with struct. A length goes before each text.
local formats = {
  -- a pool: the mark, a byte; what is due; the byte at which the balance begins that the next deduction starts
  -- with, and its number from 0 (POOL); and each balance, with FLAG.more and the rest of it if it has any, max one more
  -- than it is. flags: where in a balance its flags are; first: the byte at which the first balance begins.
  small = { mark = 0, head = '>BI6I2B', each = '>I4I4I6I6BI2c0', more = '>I4I4I4I4I4I4I4c0', amount = '>I4', amount_size = 4, flags = 20, first = 11 },
  large = { mark = 1, head = '>BI7I2B', each = '>I7I7I7I7BI2c0', more = '>I7I7I7I7I7I7I4c0', amount = '>I7', amount_size = 7, flags = 28, first = 12 },
  -- SHARED: what consuming changes, remaining and usage; 1 if there is a queue of those that have used something; behind
  -- these the packed list, in which remaining and usage are 0
  sums = '>i7I4i7I4B', sums_size = 23,
  entry = '>I7i8I4c0',       -- of a ledger: offset, timestamp, outcome
  entry_head = '>I7i8I4',    -- an entry without the outcome, which is put behind it: struct copies texts byte by byte
  repeated = '>BI4c0I4c0',   -- MARK.repeated, memo, outcome
  -- the outcome of a check: mark, code, now, need, feature, amount, SNAPSHOT.whole, packed {totals, flag, plans} or '',
  -- how many parts and lines there are; then these
  check = '>BI2c0I7i8I2c0i8i4I4c0I4I4',
  part = '>I2c0I4c0',        -- entity, pool
  -- MARK.pair, the length of the outcome of the first pool; then this, and that of the second, each as formats.check
  pair_head = '>BI4',
  lock_head = '>BI7',        -- MARK.lock, when it expires; then the outcome of the check
  -- check with one part, and with one line besides
  check_of_one = '>BI2c0I7i8I2c0i8i4I4c0I4I4I2c0I4c0',
  check_with_line = '>BI2c0I7i8I2c0i8i4I4c0I4I4I2c0I4c0I4I2i8B',
  -- of a check that one balance covers (quick.lua): mark, now, need, KIND of what was taken, or would be, the balance
  -- of the first part that it was taken from, how many parts there are, and the feature; then of each part, as in
  -- quick_part, the entity and the length of the pool, which is put behind it
  quick = '>BI7I7BBBI2c0I2c0I4',
  quick_part = '>I2c0I4',
  line = '>I4I2i8B',         -- part, balance, amount, kind
}
