-- Moves entries from the heads of queues to a taker, and renews its lease.
--
-- ARGV  1: the taker
--       2: the tag before the first one to use
--       3: seconds of its lease
--       then for each queue: its name, and how many entries there is room for
-- Returns the time here, when the next delayed entry is due (or ''), and for each queue its entries. Their tags are the
-- numbers that follow, queue by queue.
--
-- An entry without a sound header gets one.
--
-- Invariant: an entry is in a queue, held back, or in flight, and in one of them only. Where entries remain in a queue
-- whose room was used up, a marker remains for other takers.

local now = clock()
local taker, tag = ARGV[1], tonumber(ARGV[2])
local answer = {tostring(now), promote(now)}
local moves = {}
for at = 4, #ARGV, 2 do
  local queue, room = ARGV[at], tonumber(ARGV[at + 1])
  local entries = {}
  if room > 0 then
    local key = P .. 'q:' .. queue
    entries = call('RPOP', key, room) or {}
    for i, entry in ipairs(entries) do
      if queue_of(entry) ~= queue then
        -- Written by somebody else: with a header of ours it goes its way like any other, and is set aside.
        entry = string.char(0) .. struct.pack('>d', now) .. string.char(#queue) .. queue .. entry
        entries[i] = entry
      end
      moves[#moves + 1] = tag + i
      moves[#moves + 1] = entry
    end
    tag = tag + #entries
    if #entries < room then
      call('DEL', P .. 'wake:' .. queue) -- a marker of what was just taken
    elseif call('EXISTS', key) == 1 then
      wake(queue)
    end
  end
  answer[#answer + 1] = entries
end
if #moves > 0 then spread('HSET', P .. 'if:' .. taker, moves) end
call('ZADD', P .. 'leases', string.format('%.6f', now + tonumber(ARGV[3])), taker)
return answer
