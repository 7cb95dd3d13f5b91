-- promote: move waiting jobs that are due to the front of their queue's own list, the one due first in front; a claim takes
-- them before any line has its turn.
--
-- KEYS   1 slalom:promotions:{q}   2 rq:queue:{q}   3 rq:wip:{q}
-- ARGV   1 most of what is in flight that may be promoted (a share)   2 most jobs to look at   3 when to look again at a
--        job that does not wait (s from now)   4 queue
-- reply  ids promoted, in their order
--
-- Moving a job walks the queue from its head to where it stands, unless that is NEAR its end; past MOST_PLACES in one call
-- the rest is left for the next.
-- with lines
local NEAR, MOST_PLACES = 10000, 500000
local share, most, pause, queue = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3]), ARGV[4]
local time = redis.call('TIME')
local now = tonumber(time[1]) + tonumber(time[2]) / 1e6

local function status_of(job) return redis.pcall('HGET', 'rq:job:' .. job, 'status') end

-- What was promoted and has not ended; one that waits for its retry is promoted no more, and due again.
local function count_promoted()
  local num = 0
  for _, job in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], '+inf', '+inf')) do
    local status = status_of(job)
    if status == 'queued' or status == 'started' then
      num = num + 1
    elseif status == 'scheduled' then
      redis.call('HDEL', 'rq:job:' .. job, 'promoted')
      redis.call('ZADD', KEYS[1], now, job)
    else
      redis.call('ZREM', KEYS[1], job)
    end
  end
  return num
end

-- Take a job out of its list; return how long the way was, nothing if it does not stand there.
local function take_out(job)
  local list = list_of(queue, job)
  for _, most in ipairs({NEAR, 0}) do
    for _, rank in ipairs({1, -1}) do
      local place = redis.call('LPOS', list, job, 'RANK', rank, 'MAXLEN', most)
      if place then
        local way = rank == 1 and place or redis.call('LLEN', list) - place
        redis.call('LREM', list, rank, job)
        redis.call('HDEL', 'rq:job:' .. job, 'line')
        return way
      end
    end
  end
end

-- Whether anybody stands in front whom others may be moved before: no promoted job, and no suspect whose turn it is.
local function may_pass()
  local waits = false
  for _, line in ipairs({queue, redis.call('ZRANGE', 'slalom:turns:' .. queue, 0, 0)[1]}) do
    local first = redis.call('LINDEX', 'rq:queue:' .. line, 0)
    local front = first and redis.call('HMGET', 'rq:job:' .. first, 'promoted', 'suspect') or {}
    if front[1] or front[2] then return false end
    waits = waits or first
  end
  return waits
end

if not may_pass() then return {} end

local room = math.max(1, math.floor(share * redis.call('ZCARD', KEYS[3]))) - count_promoted()
local promoted, num_places = {}, 0
if room < 1 then return promoted end
for _, job in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now, 'LIMIT', 0, most)) do
  if #promoted >= room or num_places > MOST_PLACES then break end
  local status = status_of(job)
  local way = status == 'queued' and take_out(job)
  if way then
    num_places = num_places + way
    redis.call('HSET', 'rq:job:' .. job, 'promoted', '1')
    redis.call('ZADD', KEYS[1], '+inf', job)
    promoted[#promoted + 1] = job
  elseif status == 'started' or status == 'scheduled' or status == 'deferred' then
    redis.call('ZADD', KEYS[1], now + pause, job)
  else
    redis.call('ZREM', KEYS[1], job)
  end
end
for i = #promoted, 1, -1 do redis.call('LPUSH', KEYS[2], promoted[i]) end
return promoted
