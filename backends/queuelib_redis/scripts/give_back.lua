-- Returns entries of a taker to the heads of their queues, uncounted, or holds them back for a while.
--
-- ARGV  1: the taker
--       2: seconds for which they are held back
--       then the tags, oldest first; none: all of them, and the taker leaves
-- Returns how many there were.
--
-- Invariant: an entry that is not in flight here any more is left where it is. Running it again changes nothing.

local taker, delay = ARGV[1], tonumber(ARGV[2])
if #ARGV == 2 then return take_over(taker, false) end
local key = P .. 'if:' .. taker
local entries = {}
for at = 3, #ARGV do
  local entry = call('HGET', key, ARGV[at])
  if entry then
    call('HDEL', key, ARGV[at])
    entries[#entries + 1] = entry
  end
end
if delay <= 0 then
  put_first(entries, false)
  return #entries
end
local due = string.format('%.6f', clock() + delay)
local by_queue = {}
for _, entry in ipairs(entries) do
  local queue = queue_of(entry)
  by_queue[queue] = by_queue[queue] or {}
  table.insert(by_queue[queue], due)
  table.insert(by_queue[queue], entry)
end
for queue, rows in pairs(by_queue) do hold_back(queue, rows) end
return #entries
