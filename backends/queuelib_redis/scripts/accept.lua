-- Remembers bundles that were given out.
--
-- KEYS  the hash of a bundle, as store.lua describes it, any number of times one
-- ARGV  for each key: the number of its jobs, its due time (may be empty), milliseconds for which it is remembered
-- Returns how many were not known before.
--
-- Invariant: a bundle's size and due time are written once, and its life is never made shorter.
-- Running it again changes nothing.

local fresh = 0
for i, key in ipairs(KEYS) do
  local size, due, lifetime = ARGV[3 * i - 2], ARGV[3 * i - 1], tonumber(ARGV[3 * i])
  if redis.call('HSETNX', key, 'n', size) == 1 then
    redis.call('HSET', key, 'd', due)
    if redis.call('PTTL', key) < lifetime then redis.call('PEXPIRE', key, lifetime) end
    fresh = fresh + 1
  end
end
return fresh
