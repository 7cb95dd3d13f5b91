-- replay: put a dead letter back at the end of its line, as if it had never run; a suspect stays one. Its deadlines are as
-- long as they were, from now on.
--
-- KEYS   1 rq:job:{id}   2 rq:failed:{q}   3 rq:queue:{q}   4 slalom:deadlines:{q}   5 slalom:promotions:{q}
-- ARGV   1 job id   2 now (RQ's text form)   3 meta as it was read   4 meta to write ('' to leave it)
--        5 retries ('' to leave them)   6 queue
-- reply  'replayed'; 'changed' (the meta is another by now: nothing was done); any other status (no dead letter: nothing
--        was done); false if there is no such job, whose id is then dropped
-- with open
-- with lines
local job = ARGV[1]

local function instant(field)
  local at = tonumber(redis.call('HGET', KEYS[1], field) or '')
  return at and at > 0 and at < math.huge and at or nil
end

-- Count the deadlines from now on, and have them watched; one that cannot be is none any more.
local function set_deadlines()
  local time = redis.call('TIME')
  local now, since = tonumber(time[1]) + tonumber(time[2]) / 1e6, instant('deadline_since')
  local fresh = {}
  for _, field in ipairs({'start_by', 'finish_by', 'promote_at'}) do
    local at = instant(field)
    fresh[field] = since and at and string.format('%.3f', at - since + now)
    if fresh[field] then redis.call('HSET', KEYS[1], field, fresh[field]) else redis.call('HDEL', KEYS[1], field) end
  end
  if since then redis.call('HSET', KEYS[1], 'deadline_since', string.format('%.3f', now)) end
  for _, field in ipairs({'start_by', 'finish_by'}) do
    if fresh[field] then redis.call('ZADD', KEYS[4], 'LT', fresh[field], job) end
  end
  if fresh.promote_at then redis.call('ZADD', KEYS[5], fresh.promote_at, job) end
end

if redis.call('EXISTS', KEYS[1]) == 0 then
  redis.call('ZREM', KEYS[2], job)
  return false
end
local status = redis.call('HGET', KEYS[1], 'status') or ''
if status ~= 'failed' or not redis.call('ZSCORE', KEYS[2], job) then return status end
if (redis.call('HGET', KEYS[1], 'meta') or '') ~= ARGV[3] then return 'changed' end

redis.call('ZREM', KEYS[2], job)
redis.call('HSET', KEYS[1], 'status', 'queued', 'enqueued_at', ARGV[2], 'started_at', '', 'ended_at', '',
  'last_heartbeat', '', 'worker_name', '')
redis.call('HDEL', KEYS[1], 'attempts', 'worker_deaths', 'stop_requested', 'number_of_retries', 'exc_info',
  'promoted', 'so_far', 'resumed', 'partial', 'place', 'promise')
redis.call('ZREM', KEYS[4], job)
set_deadlines()
if ARGV[4] ~= '' then redis.call('HSET', KEYS[1], 'meta', ARGV[4]) end
if ARGV[5] ~= '' then redis.call('HSET', KEYS[1], 'retries_left', ARGV[5]) end
local ttl = tonumber(redis.call('HGET', KEYS[1], 'ttl') or '')
if ttl and ttl > 0 then redis.call('EXPIRE', KEYS[1], ttl) else redis.call('PERSIST', KEYS[1]) end
redis.call('SADD', 'rq:queues', KEYS[3])
enter_open(job, redis.call('TIME')[1])
put(ARGV[6], job, 'RPUSH')
return 'replayed'
