-- How jobs and their records are kept; it is put before the scripts that read or write them, after common.lua.
--
-- P r:BUNDLE (in hex) is a string as long as only job 0 of the bundle is known, which is all there is of most:
--   `a` or `p` and its due time, if any    accepted; accepted and published
--   a record                               a letter for the state, the attempt, a space, the time, a space, the body
-- or else a hash:
--   n, d       number of jobs and due time, if it was accepted
--   p          1 if it was published
--   e          how many of its jobs have ended
--   INDEX      record of one job
--   b1, b2...  records of several successes: letter, attempt, time, first job, number of jobs, body
--   S          number of such records, then `;FROM TO NUMBER` for each run of jobs whose record is in bNUMBER
--
-- Invariants: a job has a field of its own, or is in one run, or has no record. `e` counts the jobs with a final record.
-- A bundle of which all jobs have ended lives as long as outcomes are kept; any other is given no shorter life than it
-- has.

local SUCCEEDED = string.byte('S')
local RETRYING = string.byte('T')
local FINAL = {[SUCCEEDED] = true}
for _, letter in ipairs({'F', 'C', 'E', 'X'}) do FINAL[string.byte(letter)] = true end

local function is_final(value)
  return value and FINAL[string.byte(value)] or false
end

local function attempt_of(value)
  return tonumber(string.match(value, '^%a(%-?%d+)'))
end

-- `supersedes` in queuelib/outcome.py, line by line.
local function supersedes(new, old)
  if not old then return true end
  local before = string.byte(old)
  if before == SUCCEEDED then return false end
  if FINAL[before] then return string.byte(new) == SUCCEEDED end
  if is_final(new) or attempt_of(new) ~= attempt_of(old) then return is_final(new) or attempt_of(new) > attempt_of(old) end
  return string.byte(new) ~= RETRYING or before == RETRYING
end

local function extend(key, lifetime)
  if call('PTTL', key) < lifetime then call('PEXPIRE', key, lifetime) end
end

-- Makes a hash of a string, because more than job 0 is to be known.
local function as_hash(key)
  local old = redis.pcall('GET', key)
  if type(old) ~= 'string' then return end
  local left = call('PTTL', key)
  call('DEL', key)
  local letter = string.sub(old, 1, 1)
  if letter == 'p' then
    call('HSET', key, 'n', 1, 'd', string.sub(old, 2), 'p', 1)
  elseif letter == 'a' then
    call('HSET', key, 'n', 1, 'd', string.sub(old, 2))
  else
    call('HSET', key, 'n', 1, 'd', '', 'p', 1, '0', old, 'e', is_final(old) and 1 or 0)
  end
  call('PEXPIRE', key, left)
end

-- Remembers a bundle as accepted (`a`) or published (`p`); returns whether it was not known so before.
local function remember(key, size, due, lifetime, mark)
  if size == '1' then
    if call('SET', key, mark .. due, 'NX', 'PX', lifetime) then return true end
    local old = redis.pcall('GET', key)
    if type(old) == 'string' then
      if mark == 'a' or string.sub(old, 1, 1) ~= 'a' then return false end
      call('SET', key, 'p' .. string.sub(old, 2), 'KEEPTTL')
      return true
    end
  else
    as_hash(key)
  end
  local is_fresh = call('HSETNX', key, 'n', size) == 1
  if is_fresh then
    call('HSET', key, 'd', due)
    extend(key, tonumber(lifetime))
  end
  if mark == 'p' then is_fresh = call('HSETNX', key, 'p', 1) == 1 end
  return is_fresh
end

-- Stores the only record of a bundle of one; returns 1 or 0 for whether it stands, or nil if the bundle is a hash.
local function store_only(key, value, keep, lifetime)
  if is_final(value) then
    local old = redis.pcall('SET', key, value, 'PX', keep, 'GET')
    if not old then return 1 end
    if type(old) ~= 'string' then return nil end
    if is_final(old) and not supersedes(value, old) then
      call('SET', key, old, 'PX', keep)
      return 0
    end
    return 1
  end
  local old = redis.pcall('GET', key)
  if not old then
    call('SET', key, value, 'PX', lifetime)
    return 1
  end
  if type(old) ~= 'string' then return nil end
  local letter = string.sub(old, 1, 1)
  if letter ~= 'a' and letter ~= 'p' and not supersedes(value, old) then return 0 end
  call('SET', key, value, 'KEEPTTL')
  return 1
end

-- Returns the runs in a field S, and the number of records they are in.
local function runs_in(text)
  local runs = {}
  if not text then return runs, 0 end
  for from, to, number in string.gmatch(text, ';(%d+) (%d+) (%d+)') do
    runs[#runs + 1] = {tonumber(from), tonumber(to), number}
  end
  return runs, tonumber(string.match(text, '^%d+'))
end

local function runs_as_text(runs, number)
  local parts = {tostring(number)}
  for _, run in ipairs(runs) do parts[#parts + 1] = string.format('%d %d %s', run[1], run[2], run[3]) end
  return table.concat(parts, ';')
end

local function is_in_run(runs, index)
  for _, run in ipairs(runs) do
    if run[1] <= index and index <= run[2] then return true end
  end
  return false
end

-- Reads the records of single jobs from one to another into `into`; `false` where there is none.
local function read_jobs(key, from, to, into)
  for first = from, to, 1000 do
    local fields = {}
    for index = first, math.min(first + 999, to) do fields[#fields + 1] = index end
    for i, value in ipairs(call('HMGET', key, unpack(fields))) do
      if into[fields[i]] == nil then into[fields[i]] = value end
    end
  end
end

-- Stores records of one bundle. `rows` has first job, number of jobs and value of each; an answer is added for each.
local function store_many(key, rows, keep, lifetime, answers)
  local head = redis.pcall('HMGET', key, 'n', 'e', 'S')
  if head.err then
    as_hash(key)
    head = call('HMGET', key, 'n', 'e', 'S')
  end
  local size, ended = tonumber(head[1]), tonumber(head[2] or 0)
  local runs, number = runs_in(head[3])
  local jobs, changed, newly_ended, has_new_runs = {}, {}, 0, false
  local changes, dropped = {}, {}
  local singles = nil
  for at = 1, #rows, 3 do
    local first, count, value = tonumber(rows[at]), tonumber(rows[at + 1]), rows[at + 2]
    if count == 1 then
      if jobs[first] == nil then jobs[first] = call('HGET', key, first) end
      local old = jobs[first]
      local stands = supersedes(value, old)
      if not old and is_in_run(runs, first) then stands = false end
      if stands then
        if is_final(value) and not is_final(old) then newly_ended = newly_ended + 1 end
        jobs[first] = value
        changed[first] = true
      end
      answers[#answers + 1] = stands and 1 or 0
    else
      if singles == nil then -- whether any job has a field of its own
        local others = number
        for _, field in ipairs({'n', 'd', 'p', 'e', 'S'}) do others = others + call('HEXISTS', key, field) end
        singles = call('HLEN', key) > others
      end
      if singles then read_jobs(key, first, first + count - 1, jobs) end
      number = number + 1
      local added, from, gained = {}, nil, 0
      for index = first, first + count do
        local old = jobs[index]
        local is_free = index < first + count and not (old and string.byte(old) == SUCCEEDED)
        if is_free and not old and #runs > 0 and is_in_run(runs, index) then is_free = false end
        if is_free then
          from = from or index
          gained = gained + 1
          if not is_final(old) then newly_ended = newly_ended + 1 end
          if old then
            jobs[index] = false
            changed[index] = true
          end
        elseif from then
          added[#added + 1] = {from, index - 1, tostring(number)}
          from = nil
        end
      end
      for _, run in ipairs(added) do runs[#runs + 1] = run end
      if gained > 0 then
        has_new_runs = true
        changes[#changes + 1] = 'b' .. number
        changes[#changes + 1] = value
      else
        number = number - 1
      end
      answers[#answers + 1] = gained == count and 1 or 0
    end
  end
  for index in pairs(changed) do
    if jobs[index] then
      changes[#changes + 1] = index
      changes[#changes + 1] = jobs[index]
    else
      dropped[#dropped + 1] = index
    end
  end
  if #changes == 0 then return end
  if has_new_runs then
    changes[#changes + 1] = 'S'
    changes[#changes + 1] = runs_as_text(runs, number)
  end
  changes[#changes + 1] = 'e'
  changes[#changes + 1] = ended + newly_ended
  spread('HDEL', key, dropped)
  spread('HSET', key, changes)
  if size and ended + newly_ended >= size then
    call('PEXPIRE', key, keep)
  elseif not size and newly_ended > 0 then
    extend(key, tonumber(keep))
  else
    extend(key, tonumber(lifetime))
  end
end
