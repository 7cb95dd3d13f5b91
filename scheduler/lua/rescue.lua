-- rescue: take back the jobs of a queue whose lease has expired: requeue them in front, or make them dead letters.
--
-- KEYS   1 rq:wip:{q}   2 rq:queue:{q}   3 rq:failed:{q}
-- ARGV   1 queue   2 grace (s)   3 most worker deaths   4 most jobs in this call   5 now (RQ's text form)
--        6 dead letter's failure text, zlib   7 the same, base64   8 failure ttl (s) of jobs without one
-- reply  {ids requeued, ids made dead letters}
--
-- An execution with `lease_until` is ours and expires by that. One without is a plain RQ worker's, or its record has
-- expired: it is taken when its score in the registry has passed.
local queue, grace, max_deaths, limit = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local now_text, text, text64, default_ttl = ARGV[5], ARGV[6], ARGV[7], tonumber(ARGV[8])
local time = redis.call('TIME')
local now = tonumber(time[1]) + tonumber(time[2]) / 1e6
local requeued, dead = {}, {}

local function bury(job, execution)
  local ttl = tonumber(redis.call('HGET', 'rq:job:' .. job, 'failure_ttl') or '') or default_ttl
  redis.call('HSET', 'rq:job:' .. job, 'status', 'failed', 'ended_at', now_text, 'exc_info', text)
  redis.call('XADD', 'rq:results:' .. job, 'MAXLEN', '10', '*', 'type', '2', 'worker_name', '',
    'exc_string', text64, 'execution_id', execution)
  if ttl > 0 then
    redis.call('EXPIRE', 'rq:job:' .. job, ttl)
    redis.call('EXPIRE', 'rq:results:' .. job, ttl)
  end
  redis.call('ZADD', KEYS[3], ttl < 0 and '+inf' or math.floor(now) + ttl, job)
  dead[#dead + 1] = job
end

local function requeue(job)
  redis.call('HSET', 'rq:job:' .. job, 'status', 'queued', 'started_at', '', 'worker_name', '')
  redis.call('LPUSH', KEYS[2], job)
  requeued[#requeued + 1] = job
end

local function expired(member, score)
  local lease = redis.call('HGET', 'rq:execution:' .. member, 'lease_until')
  return (lease and tonumber(lease) or score) < now
end

local found = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now + grace, 'WITHSCORES', 'LIMIT', 0, limit)
for i = 1, #found, 2 do
  local member, score = found[i], tonumber(found[i + 1])
  local job, execution = string.match(member, '^(.*):([^:]*)$')
  if expired(member, score) then
    redis.call('ZREM', KEYS[1], member)
    redis.call('DEL', 'rq:execution:' .. member)
    redis.call('ZREM', 'rq:executions:' .. job, execution)
    if redis.call('HEXISTS', 'rq:job:' .. job, 'data') == 1 then
      local deaths = redis.call('HINCRBY', 'rq:job:' .. job, 'worker_deaths', 1)
      if deaths >= max_deaths then bury(job, execution) else requeue(job) end
    end
  end
end
if #dead > 0 then redis.call('PUBLISH', 'slalom:ended', table.concat(dead, ' ')) end
return {requeued, dead}
