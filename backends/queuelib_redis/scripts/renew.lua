-- Renews a taker's lease, and returns to their queues the entries of takers that are dead.
--
-- ARGV  1: the taker, or empty for one that has taken nothing
--       2: seconds of its lease
--       3: seconds between two sights of an expired lease before it counts
--       4: host and process of the taker
--       then pairs: a taker whose process the caller knows to be gone, and its host and process as read here
-- Returns the time here, when the next delayed entry is due (or ''), the takers taken over, and all others as pairs with
-- their host and process.
--
-- Invariant: a taker is taken over when its lease was seen expired twice, some seconds apart on this server's clock, and
-- unchanged: neither a jump of the clock nor a pause of the server ends all leases at once. Entries taken over are
-- counted as delivered once more, and are the next to be taken.

local now = clock()
local taker = ARGV[1]
local answer = {tostring(now), promote(now), {}, {}}
if taker ~= '' then
  call('ZADD', P .. 'leases', string.format('%.6f', now + tonumber(ARGV[2])), taker)
  call('HSET', P .. 'who', taker, ARGV[4])
end
for at = 5, #ARGV, 2 do
  local who = call('HGET', P .. 'who', ARGV[at])
  if who == ARGV[at + 1] then
    take_over(ARGV[at], true)
    table.insert(answer[3], ARGV[at])
  end
end
local expired = call('ZRANGEBYSCORE', P .. 'leases', '-inf', string.format('%.6f', now), 'WITHSCORES')
for at = 1, #expired, 2 do
  local suspect, lease = expired[at], expired[at + 1]
  local seen = call('HGET', P .. 'suspects', suspect)
  local seen_lease, since
  if seen then seen_lease, since = string.match(seen, '^(%S+) (%S+)$') end
  if suspect == taker then
    -- nobody doubts itself
  elseif seen_lease ~= lease then
    call('HSET', P .. 'suspects', suspect, lease .. ' ' .. string.format('%.6f', now))
  elseif now - tonumber(since) >= tonumber(ARGV[3]) then
    take_over(suspect, true)
    table.insert(answer[3], suspect)
  end
end
answer[4] = call('HGETALL', P .. 'who')
return answer
