-- Reads what is known of jobs.
--
-- ARGV  for each bundle: its name in hex, a number, and as many pairs of a first and a last job
-- Returns for each bundle false if nothing is known; a string as records.lua describes it; or the list: number of jobs
-- (or ''), due time (or ''), a list of jobs and their records in turns, and a list of first job, last job and their
-- common record in turns.
--
-- It changes nothing.

local answer = {}
local at = 1
while at <= #ARGV do
  local key = P .. 'r:' .. ARGV[at]
  local first = at + 2
  at = first + 2 * tonumber(ARGV[at + 1])
  local head = redis.pcall('HMGET', key, 'n', 'd', 'p', 'e', 'S')
  if head.err then
    answer[#answer + 1] = call('GET', key)
  else
    local length = call('HLEN', key)
    if length == 0 then
      answer[#answer + 1] = false
    else
      local runs, number = runs_in(head[5])
      local others = number
      for i = 1, 5 do
        if head[i] then others = others + 1 end
      end
      local jobs, shared, wanted = {}, {}, {}
      for i = first, at - 1, 2 do
        local from, to = tonumber(ARGV[i]), tonumber(ARGV[i + 1])
        if length > others then
          local found = {}
          read_jobs(key, from, to, found)
          for index, value in pairs(found) do
            if value then
              jobs[#jobs + 1] = index
              jobs[#jobs + 1] = value
            end
          end
        end
        for _, run in ipairs(runs) do
          if run[1] <= to and from <= run[2] then wanted[run] = true end
        end
      end
      for run in pairs(wanted) do
        shared[#shared + 1] = run[1]
        shared[#shared + 1] = run[2]
        shared[#shared + 1] = call('HGET', key, 'b' .. run[3])
      end
      answer[#answer + 1] = {head[1] or '', head[2] or '', jobs, shared}
    end
  end
end
return answer
