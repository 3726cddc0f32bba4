-- Puts frames into their queues, each bundle once, and remembers the bundles.
--
-- ARGV  for each frame: its bundle in hex (empty: not to be remembered), the number of jobs, milliseconds for which the
--       bundle is remembered, its due time (empty: now), the queue, the entry
-- Returns how many were put in: not those of bundles that had been published before.
--
-- Invariant: a bundle is marked as published in the same step in which its frame is put in. Running it again puts in
-- nothing twice that has a bundle.

local count, now = 0, clock()
local ready, delayed = {}, {}
for at = 1, #ARGV, 6 do
  local bundle, due, queue = ARGV[at], ARGV[at + 3], ARGV[at + 4]
  if bundle == '' or remember(P .. 'r:' .. bundle, ARGV[at + 1], due, ARGV[at + 2], 'p') then
    count = count + 1
    local into = ready
    local is_late = due ~= '' and tonumber(due) > now
    if is_late then into = delayed end
    local list = into[queue]
    if not list then
      list = {}
      into[queue] = list
    end
    if is_late then list[#list + 1] = due end
    list[#list + 1] = ARGV[at + 5]
  end
end
for queue, entries in pairs(ready) do
  spread('LPUSH', P .. 'q:' .. queue, entries)
  wake(queue)
end
for queue, rows in pairs(delayed) do hold_back(queue, rows) end
return count
