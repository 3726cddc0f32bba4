-- Moves messages whose time has come from their waiting sets into their queues.
--
-- KEYS  pairs: a sorted set (member: message, score: wall time in seconds), and the list it empties into
-- ARGV  1: how many messages to move at most from each set
-- Returns how many were moved.
--
-- Invariant: a message is in the set or in the list, never in both and never in neither; the server's clock decides.
-- Running it again moves only what has become due since.

local time = redis.call('TIME')
local now = tonumber(time[1]) + tonumber(time[2]) / 1000000
local moved = 0
for i = 1, #KEYS, 2 do
  local due = redis.call('ZRANGEBYSCORE', KEYS[i], '-inf', now, 'LIMIT', 0, ARGV[1])
  for _, message in ipairs(due) do
    redis.call('LPUSH', KEYS[i + 1], message)
    redis.call('ZREM', KEYS[i], message)
  end
  moved = moved + #due
end
return moved
