-- Drops the records of jobs, so that they may end again: they are queued anew.
--
-- ARGV  1: milliseconds for which the bundle is remembered at least from now on
--       2: the bundle's name in hex
--       then the jobs
-- Returns how many of the records were final.
--
-- Invariant: as in records.lua. A record of several stays for the others. Running it again changes nothing.

local key = P .. 'r:' .. ARGV[2]
local old = redis.pcall('GET', key)
if not old then return 0 end
if type(old) == 'string' then
  local letter = string.sub(old, 1, 1)
  if letter == 'a' or letter == 'p' then return 0 end
  for i = 3, #ARGV do
    if ARGV[i] == '0' then
      call('SET', key, 'p', 'PX', ARGV[1])
      return is_final(old) and 1 or 0
    end
  end
  return 0
end

local runs, number = runs_in(call('HGET', key, 'S'))
local endings, has_split = 0, false
for i = 3, #ARGV do
  local index = tonumber(ARGV[i])
  local value = call('HGET', key, index)
  if value then
    call('HDEL', key, index)
    if is_final(value) then endings = endings + 1 end
  else
    for at, run in ipairs(runs) do
      if run[1] <= index and index <= run[2] then
        has_split = true
        endings = endings + 1
        table.remove(runs, at)
        if run[1] < index then table.insert(runs, at, {run[1], index - 1, run[3]}) end
        if index < run[2] then table.insert(runs, at, {index + 1, run[2], run[3]}) end
        break
      end
    end
  end
end
if has_split then call('HSET', key, 'S', runs_as_text(runs, number)) end
if endings > 0 then
  call('HINCRBY', key, 'e', -endings)
  extend(key, tonumber(ARGV[1]))
end
return endings
