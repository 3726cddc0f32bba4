-- What the other scripts begin with; it is put before each of them.
--
-- KEYS  1: `{namespace}:`, the beginning of every key; its braces keep all of them on one node of a cluster
--
-- Entry of a queue: 1 byte deliveries so far, 8 bytes time of publication, 1 byte length of the queue's name, the name,
-- the frame.
--
-- P q:QUEUE      list     entries; new ones come in on the left, the head is on the right
-- P due:QUEUE    zset     number and entry -> when it is due
-- P due          zset     queue -> when its first delayed entry is due
-- P wake:QUEUE   list     at most one marker, for one taker that waits
-- P if:TAKER     hash     tag -> entry, in flight
-- P leases       zset     taker -> end of its lease, by the server's clock
-- P who          hash     taker -> host and process
-- P suspects     hash     taker -> the lease that was seen expired, and when that was first seen

local P = KEYS[1]
local call = redis.call

local function clock()
  local time = call('TIME')
  return tonumber(time[1]) + tonumber(time[2]) / 1000000
end

local function queue_of(entry)
  return string.sub(entry, 11, 10 + (string.byte(entry, 10) or 0))
end

-- Leaves a marker for a taker that waits or will wait: a queue that is not empty has one, or somebody took it to look.
local function wake(queue)
  local key = P .. 'wake:' .. queue
  if call('LLEN', key) == 0 then call('LPUSH', key, queue) end
end

-- Calls a command that takes any number of values, a part of them at a time: Lua's stack is limited.
local function spread(command, key, values)
  local answer = 0
  for first = 1, #values, 4000 do
    answer = call(command, key, unpack(values, first, math.min(first + 3999, #values)))
  end
  return answer
end

-- Holds entries back; `delayed` has a score and an entry in turns.
local function hold_back(queue, delayed)
  local number = call('INCRBY', P .. 'number', #delayed / 2)
  local first = tonumber(delayed[1])
  for i = 1, #delayed, 2 do
    first = math.min(first, tonumber(delayed[i]))
    delayed[i + 1] = string.format('%016d', number - #delayed / 2 + (i + 1) / 2) .. delayed[i + 1]
  end
  spread('ZADD', P .. 'due:' .. queue, delayed)
  if call('ZADD', P .. 'due', 'LT', 'CH', string.format('%.6f', first), queue) == 1 then wake(queue) end
end

-- Moves what is due into its queues; returns when the next entry is due, or ''.
local function promote(now)
  while true do
    local first = call('ZRANGE', P .. 'due', 0, 0, 'WITHSCORES')
    if not first[1] then return '' end
    if tonumber(first[2]) > now then return first[2] end
    local queue = first[1]
    local held = P .. 'due:' .. queue
    local due = call('ZRANGEBYSCORE', held, '-inf', string.format('%.6f', now), 'LIMIT', 0, 500)
    if #due > 0 then
      spread('ZREM', held, due)
      local entries = {}
      for i, member in ipairs(due) do entries[i] = string.sub(member, 17) end
      spread('LPUSH', P .. 'q:' .. queue, entries)
      wake(queue)
    end
    local next_one = call('ZRANGE', held, 0, 0, 'WITHSCORES')
    if next_one[1] then
      call('ZADD', P .. 'due', next_one[2], queue)
    else
      call('ZREM', P .. 'due', queue)
    end
    if #due == 500 or (#due == 0 and next_one[1] and tonumber(next_one[2]) <= now) then
      return first[2] -- the server has others to serve
    end
  end
end

-- Returns entries to the heads of their queues, so that the first of them is the next to be taken.
local function put_first(entries, died)
  local by_queue = {}
  for i = #entries, 1, -1 do
    local entry = entries[i]
    if died then
      entry = string.char(math.min(255, string.byte(entry) + 1)) .. string.sub(entry, 2)
    end
    local queue = queue_of(entry)
    local list = by_queue[queue]
    if not list then
      list = {}
      by_queue[queue] = list
    end
    list[#list + 1] = entry
  end
  for queue, list in pairs(by_queue) do
    spread('RPUSH', P .. 'q:' .. queue, list)
    wake(queue)
  end
end

-- Returns to their queues all that a taker holds, oldest first, and forgets the taker; returns how many.
local function take_over(taker, died)
  local key = P .. 'if:' .. taker
  local held = call('HGETALL', key)
  local rows = {}
  for i = 1, #held, 2 do rows[#rows + 1] = {tonumber(held[i]), held[i + 1]} end
  table.sort(rows, function(a, b) return a[1] < b[1] end)
  local entries = {}
  for i, row in ipairs(rows) do entries[i] = row[2] end
  put_first(entries, died)
  call('DEL', key)
  call('ZREM', P .. 'leases', taker)
  call('HDEL', P .. 'who', taker)
  call('HDEL', P .. 'suspects', taker)
  return #entries
end
