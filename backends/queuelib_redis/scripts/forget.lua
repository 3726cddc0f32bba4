-- Drops the records of jobs, so that they may end again: they are queued anew.
--
-- KEYS  1: the hash of a bundle, as store.lua describes it
-- ARGV  1: milliseconds for which the bundle is remembered at least from now on
--       then the indexes of the jobs
-- Returns how many of the records were final.
--
-- Invariant: as in store.lua, `e` is the number of indexes whose state is final. Running it again changes nothing.

local FINAL = {succeeded = true, failed = true, cancelled = true, expired = true, quarantined = true}

local endings = 0
for i = 2, #ARGV do
  local value = redis.call('HGET', KEYS[1], ARGV[i])
  if value then
    redis.call('HDEL', KEYS[1], ARGV[i])
    if FINAL[string.match(value, '^%a+')] then endings = endings + 1 end
  end
end
if endings > 0 then
  redis.call('HINCRBY', KEYS[1], 'e', -endings)
  if redis.call('PTTL', KEYS[1]) < tonumber(ARGV[1]) then redis.call('PEXPIRE', KEYS[1], ARGV[1]) end
end
return endings
