-- finish: write the results of jobs that succeeded, each only if this execution still holds its lease.
--
-- KEYS   1 rq:worker:{name}
-- ARGV   1 worker name   then per job: queue, job id, execution id, ended at (RQ's text form), started (epoch s),
--        ended (epoch s), return value (base64 of the serialized value, or ''), result ttl (s, -1 for ever),
--        meta (serialized, or '' to leave it)
-- reply  list, one per job: 'written'; 'lost' (rescued meanwhile: nothing was written); 'dependents' (other jobs wait
--        for it: nothing was written, RQ's own transaction must)
-- with open
local STRIDE = 9
local worker = ARGV[1]
local time = redis.call('TIME')
local now = tonumber(time[1])
local verdicts, ended, working_time = {}, {}, 0

local function expire(key, ttl)
  if ttl > 0 then redis.call('EXPIRE', key, ttl) end
end

local function write(i)
  local queue, job, execution, ended_at = ARGV[i], ARGV[i + 1], ARGV[i + 2], ARGV[i + 3]
  local started, finished, value, ttl, meta = ARGV[i + 4], ARGV[i + 5], ARGV[i + 6], tonumber(ARGV[i + 7]), ARGV[i + 8]
  local member = job .. ':' .. execution
  if not redis.call('ZSCORE', 'rq:wip:' .. queue, member) then return 'lost' end
  if redis.call('EXISTS', 'rq:job:' .. job .. ':dependents') == 1 then return 'dependents' end

  redis.call('HSET', 'rq:job:' .. job, 'status', 'finished', 'ended_at', ended_at, 'last_heartbeat', ended_at)
  if meta ~= '' then redis.call('HSET', 'rq:job:' .. job, 'meta', meta) end
  redis.call('HDEL', 'rq:job:' .. job, 'attempts', 'promoted', 'suspect', 'worker_deaths', 'resumed')
  redis.call('ZREM', 'slalom:deadlines:' .. queue, job)
  redis.call('ZREM', 'slalom:promotions:' .. queue, job)
  leave_open(job)
  local entry = {'type', '1', 'worker_name', worker, 'execution_id', execution,
    'execution_started_at', started, 'execution_ended_at', finished}
  if value ~= '' then
    entry[#entry + 1] = 'return_value'
    entry[#entry + 1] = value
  end
  redis.call('XADD', 'rq:results:' .. job, 'MAXLEN', '10', '*', unpack(entry))
  expire('rq:results:' .. job, ttl)
  redis.call('ZADD', 'rq:finished:' .. queue, ttl < 0 and '+inf' or now + ttl, job)
  expire('rq:job:' .. job, ttl)
  redis.call('DEL', 'rq:execution:' .. member)
  redis.call('ZREM', 'rq:wip:' .. queue, member)
  redis.call('ZREM', 'rq:executions:' .. job, execution)
  ended[#ended + 1] = job
  working_time = working_time + finished - started
  return 'written'
end

for i = 2, #ARGV, STRIDE do verdicts[#verdicts + 1] = write(i) end
if #ended > 0 then
  redis.call('HINCRBY', KEYS[1], 'successful_job_count', #ended)
  redis.call('HINCRBYFLOAT', KEYS[1], 'total_working_time', string.format('%.6f', working_time))
  redis.call('PUBLISH', 'slalom:ended', table.concat(ended, ' '))
end
return verdicts
