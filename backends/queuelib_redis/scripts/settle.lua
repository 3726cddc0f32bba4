-- Settles deliveries: outcomes, what is set aside, successors, acknowledgements, and word to waiting clients; or, without
-- deliveries, stores outcomes.
--
-- ARGV  1: the taker; 2: how many entries it holds, as it knows; 3: milliseconds for which outcomes are kept;
--       4: milliseconds for which a bundle is remembered at least while jobs of it have not ended
--       a number, and as many tags that are acknowledged
--       a number, and as many tags that stay in flight
--       a number, and for each bundle of one: its name in hex, and the record of its job
--       a number, and for each other bundle: its name, the number of records, and for each its first job, the number of
--       jobs, and the record
--       a number, and as many pairs of an id and what is set aside
--       a number, and for each successor: its due time (empty: now), its queue, its entry
--       then pairs: an inbox, and what it is told
-- Returns 1, and 1 or 0 for each record, in order, for whether it stands for all its jobs. Where a delivery is not the
-- taker's any more: 0, and the tags of all such deliveries, and nothing is changed.
--
-- Invariant: everything here happens or nothing. Where as many entries are in flight as the taker knows to hold, they
-- are the ones it knows, since nobody adds to them but the taker.

local taker, keep, lifetime = ARGV[1], ARGV[3], ARGV[4]
local flight = P .. 'if:' .. taker
local at = 5

local function section(width)
  local first = at + 1
  at = first + tonumber(ARGV[at]) * width
  return first, at - 1
end

local done_first, done_last = section(1)
local kept_first, kept_last = section(1)
if done_last >= done_first or kept_last >= kept_first then
  if call('HLEN', flight) ~= tonumber(ARGV[2]) then
    local lost = {0}
    for _, range in ipairs({{done_first, done_last}, {kept_first, kept_last}}) do
      for i = range[1], range[2] do
        if call('HEXISTS', flight, ARGV[i]) == 0 then lost[#lost + 1] = ARGV[i] end
      end
    end
    if #lost > 1 then return lost end
  end
end

local answers = {1}
local first, last = section(2)
for i = first, last, 2 do
  local key = P .. 'r:' .. ARGV[i]
  local stands = store_only(key, ARGV[i + 1], keep, lifetime)
  if stands == nil then
    local found = {}
    store_many(key, {0, 1, ARGV[i + 1]}, keep, lifetime, found)
    stands = found[1]
  end
  answers[#answers + 1] = stands
end

local bundles = tonumber(ARGV[at])
at = at + 1
for _ = 1, bundles do
  local rows = {}
  local key = P .. 'r:' .. ARGV[at]
  local stop = at + 2 + 3 * tonumber(ARGV[at + 1])
  for i = at + 2, stop - 1 do rows[#rows + 1] = ARGV[i] end
  store_many(key, rows, keep, lifetime, answers)
  at = stop
end

first, last = section(2)
for i = first, last, 2 do call('HSET', P .. 'quarantine', ARGV[i], ARGV[i + 1]) end

first, last = section(3)
if last >= first then
  local now = clock()
  for i = first, last, 3 do
    local due, queue = ARGV[i], ARGV[i + 1]
    if due ~= '' and tonumber(due) > now then
      hold_back(queue, {due, ARGV[i + 2]})
    else
      call('LPUSH', P .. 'q:' .. queue, ARGV[i + 2])
      wake(queue)
    end
  end
end

for from = done_first, done_last, 4000 do
  call('HDEL', flight, unpack(ARGV, from, math.min(from + 3999, done_last)))
end

for i = at, #ARGV, 2 do
  call('RPUSH', ARGV[i], ARGV[i + 1])
  call('LTRIM', ARGV[i], -1000, -1)
  call('EXPIRE', ARGV[i], 120)
end
return answers
