-- The state of a customer, field by field. Arrays are packed with MessagePack;
-- the tables below name their positions. The assembler (scripts.go) writes the
-- number wherever a script says B.plan, so a name costs nothing at run time.
--
-- Every key of a customer bears the same hash tag, so one slot holds them all:
--   <prefix>{<customer>}                    hash, see below
--   <prefix>{<customer>}:e                  zset, entity ids by creation
--   <prefix>{<customer>}:l:<source>         string, entries of a ledger (ledger.lua)
--   <prefix>{<customer>}:i:<kind>:<key>     string, outcome of an idempotency key
--
-- The hash, with <n> the length of the feature id in bytes:
--   c                        the customer (C)
--   p, P<entity>             plans attached to the customer, to an entity (list of P)
--   e<entity>                an entity (E)
--   b<feature>               the customer's balances of a feature (list of B, in deduction order)
--   B<n>:<feature><entity>   an entity's balances of a feature (likewise)
--   n<feature>               how many entities hold balances that the customer shares (B.shared)
--   f<feature>               the customer's flags for a boolean feature (list of F)
--   F<n>:<feature><entity>   an entity's flags
--   l<source>                the last record of a ledger (ledger.lua)
--
-- Amounts are integers in units of 10^-precision, times Unix milliseconds.

-- A balance. Invariant: every amount is an integer in 0..MAX, and with
--   usage     = included - included_left + prepaid - prepaid_left + over + from_rollovers
--   remaining = included_left + prepaid_left + what its rollovers hold
-- granted + rolled in = remaining + usage - over holds by construction.
-- In Redis a balance is the first fields, which a check reads and changes, and the others
-- packed in details, which only the rest looks at (complete, pack_balances).
local B = {
  included_left = 1,
  prepaid_left = 2,
  over = 3,             -- consumed beyond what was granted
  from_rollovers = 4,   -- consumed this period from rollovers
  resets = 5,           -- next reset, 0: never
  expires = 6,          -- 0: never
  unlimited = 7,        -- 0 or 1; usage counts in over
  shared = 8,           -- 1: held by an entity, in the customer's pool too (a per-entity item)
  overage = 9,          -- 0 or 1: may go beyond what was granted
  max = 10,             -- max_purchase, -1: no bound
  rollovers = 11,       -- list of R, oldest first
  details = 12,         -- the fields that follow; '' where they do, as they must to be changed
  plan = 13,            -- plan id, '' for a standalone grant
  id = 14,              -- number of the item among the plan's items of this feature, or a grant's id
  rank = 15,            -- 0 main plan, 1 add-on, 2 standalone grant
  seq = 16,             -- age: grows with every balance of the customer
  anchor = 17,          -- periods are counted from here
  unit = 18,            -- interval, see calendar.lua; 0: no reset, 9: one_off
  count = 19,           -- intervals in a period
  included = 20,        -- granted by the item or grant
  prepaid = 21,         -- granted because it was bought
  rollover_max = 22,    -- -1: nothing is rolled over
  rollover_months = 23, -- 0: rollovers never expire
  times = 24,           -- how often the item was granted: more than once only for a one-off add-on
  added = 25,           -- of included, what balance.update added (or took) until the next reset
}

-- A rollover.
local R = {
  held = 1,    -- what it held when the period began
  left = 2,    -- what is left of it
  expires = 3, -- 0: never
}

-- A customer.
local C = { created = 1, seq = 2, epoch = 3, name = 4, email = 5, metadata = 6 }

-- An attached plan.
local P = { id = 1, group = 2, rank = 3, started = 4, seq = 5, features = 6, bought = 7, one_off = 8, times = 9 }

-- What was bought of a plan's prepaid item.
local Q = { feature = 1, number = 2, quantity = 3 }

-- An entity.
local E = { created = 1, feature = 2, name = 3 }

-- A flag: a boolean feature that a plan includes.
local F = { plan = 1, expires = 2 }

-- A plan item as the worker hands it over from the catalogue.
local I = {
  feature = 1, number = 2, included = 3, unlimited = 4, overage = 5, max = 6,
  unit = 7, count = 8, rollover_max = 9, rollover_months = 10,
  seats = 11,   -- per_entity: the seat feature, '' otherwise
  prepaid = 12, -- 1: adds the quantity bought
  flag = 13,    -- 1: a boolean feature
  kept = 14,    -- 1: non-consumable, its usage moves to the plan that follows
}

-- Kinds of a line. A line of a deduction is four elements of a list: owner, balance, amount, kind.
local KIND = { rollover = 1, included = 2, prepaid = 3, overage = 4, unlimited = 5 }

-- max: the largest amount, the last integer that a double counts exactly.
-- rollovers: as many as one balance can have; more than an hourly reset makes in a month.
local LIMIT = { max = 9007199254740991, rollovers = 1000 }

-- Intervals without a period.
local UNIT = { none = 0, minute = 1, hour = 2, day = 3, week = 4, month = 5, quarter = 6, semi_annual = 7, year = 8, one_off = 9 }

-- What scripts keep in mind of a pool while they work on it (pool.lua): whose balances they
-- are, and the balances that one check may draw from.
local OWNER = { entity = 1, field = 2, packed = 3, balances = 4, changed = 5, had_shared = 6 }
local POOL = { feature = 1, owners = 2, list = 3, owner_of = 4, place_of = 5, need = 6, code = 7, allowed = 8 }
