-- Puts one frame that is due into its queue, as push.lua does for many; it stands alone, because defining what it does
-- not need would cost more than what it does.
--
-- KEYS  1: `{namespace}:`
-- ARGV  the frame's bundle in hex (empty: not to be remembered), the number of jobs, milliseconds for which the bundle is
--       remembered, the queue, the entry
-- Returns 1; or 0 if the bundle was known already: nothing is changed then, and push.lua decides.

local P, queue = KEYS[1], ARGV[4]
if ARGV[1] ~= '' then
  local key = P .. 'r:' .. ARGV[1]
  if ARGV[2] == '1' then
    if not redis.call('SET', key, 'p', 'NX', 'PX', ARGV[3]) then return 0 end
  else
    if redis.call('EXISTS', key) == 1 then return 0 end
    redis.call('HSET', key, 'n', ARGV[2], 'd', '', 'p', 1)
    redis.call('PEXPIRE', key, ARGV[3])
  end
end
if redis.call('LPUSH', P .. 'q:' .. queue, ARGV[5]) == 1 then
  local bell = P .. 'wake:' .. queue
  if redis.call('LLEN', bell) == 0 then redis.call('LPUSH', bell, queue) end
end
return 1
