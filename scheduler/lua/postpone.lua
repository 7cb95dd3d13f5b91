-- postpone: put a job that failed into the scheduled registry, charged one retry, only if this execution still holds its
-- lease and its caller did not cancel it.
--
-- KEYS   1 rq:job:{id}   2 rq:wip:{q}   3 rq:scheduled:{q}   4 rq:queue:{q}   5 rq:worker:{name}
-- ARGV   1 job id   2 execution id   3 delay (s)   4 ended at (RQ's text form)   5 working time (s)
-- reply  'written'; 'lost' (rescued meanwhile: nothing was written); 'stop' (cancelled: nothing was written)
local job, execution, delay, ended_at, working_time = ARGV[1], ARGV[2], tonumber(ARGV[3]), ARGV[4], ARGV[5]
local member = job .. ':' .. execution
if not redis.call('ZSCORE', KEYS[2], member) then return 'lost' end
if redis.call('HEXISTS', KEYS[1], 'stop_requested') == 1 then return 'stop' end

local time = redis.call('TIME')
local due = tonumber(time[1]) + tonumber(time[2]) / 1e6 + delay
redis.call('HSET', KEYS[1], 'status', 'scheduled', 'ended_at', ended_at)
redis.call('HINCRBY', KEYS[1], 'retries_left', -1)
redis.call('HDEL', KEYS[1], 'resumed', 'place', 'promise')
local ttl = tonumber(redis.call('HGET', KEYS[1], 'ttl') or '')
if ttl and ttl > 0 then
  for _, part in ipairs({'', ':dependents', ':dependencies'}) do redis.call('EXPIRE', KEYS[1] .. part, ttl) end
end
redis.call('DEL', 'rq:execution:' .. member)
redis.call('ZREM', KEYS[2], member)
redis.call('ZREM', 'rq:executions:' .. job, execution)
redis.call('SADD', 'rq:queues', KEYS[4])
redis.call('ZADD', KEYS[3], string.format('%.6f', due), job)
redis.call('HINCRBY', KEYS[5], 'failed_job_count', 1)
redis.call('HINCRBYFLOAT', KEYS[5], 'total_working_time', working_time)
return 'written'
