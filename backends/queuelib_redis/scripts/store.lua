-- Stores records of jobs, each only if it supersedes what is there: `supersedes` in queuelib/outcome.py, line by line.
--
-- KEYS  the hash of a bundle, any number of times one
-- ARGV  1: milliseconds for which outcomes are kept
--       2: milliseconds for which a bundle is remembered at least while jobs of it have not ended
--       then for each key: the number of its records, and for each record the job's index and its value
-- Returns 1 or 0 for each record, in order: whether it stands now because of this call.
--
-- Hash of a bundle: `n` its size, `d` its due time, `e` how many of its jobs have ended, and for each index with a
-- record "state attempt at body" (`d` and `body` may be empty).
--
-- Invariant: `e` is the number of indexes whose state is final. A bundle of which all jobs have ended lives for
-- ARGV[1] from the last change; any other is never given a shorter life than it has.
-- Running it again after its answer was lost changes no record that has ended, but answers 0 for it.

local FINAL = {succeeded = true, failed = true, cancelled = true, expired = true, quarantined = true}

local function head(value)
  local state, attempt = string.match(value, '^(%a+) (%-?%d+) ')
  return state, tonumber(attempt)
end

local function supersedes(new, old)
  if not old then return true end
  local state, attempt = head(new)
  local before, attempt_before = head(old)
  if before == 'succeeded' then return false end
  if FINAL[before] then return state == 'succeeded' end
  return FINAL[state] or attempt >= attempt_before
end

local function is_final(value)
  return value and FINAL[head(value)] or false
end

local function extend(key, lifetime)
  if redis.call('PTTL', key) < lifetime then redis.call('PEXPIRE', key, lifetime) end
end

local keep, lifetime = tonumber(ARGV[1]), tonumber(ARGV[2])
local answers = {}
local at = 3
for _, key in ipairs(KEYS) do
  local count = tonumber(ARGV[at])
  local fields = {'n', 'e'}
  for i = 0, count - 1 do fields[#fields + 1] = ARGV[at + 1 + 2 * i] end
  local found = redis.call('HMGET', key, unpack(fields))
  local size, ended = tonumber(found[1]), tonumber(found[2] or 0)
  local standing, changes, newly_ended = {}, {}, 0
  for i = 0, count - 1 do
    local field, value = ARGV[at + 1 + 2 * i], ARGV[at + 2 + 2 * i]
    local old = standing[field] or found[3 + i]
    local stands = supersedes(value, old)
    if stands then
      if is_final(value) and not is_final(old) then newly_ended = newly_ended + 1 end
      standing[field] = value
      changes[#changes + 1] = field
      changes[#changes + 1] = value
    end
    answers[#answers + 1] = stands and 1 or 0
  end
  if #changes > 0 then
    redis.call('HSET', key, 'e', ended + newly_ended, unpack(changes))
    if size and ended + newly_ended >= size then
      redis.call('PEXPIRE', key, keep)
    elseif not size and newly_ended > 0 then
      extend(key, keep)
    else
      extend(key, lifetime)
    end
  end
  at = at + 1 + 2 * count
end
return answers
