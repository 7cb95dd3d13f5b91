-- claim: take up to `count` jobs from the queues in rank order and start them, in one atomic step.
--
-- KEYS   pairs, one per queue in rank order: rq:queue:{q}, rq:wip:{q}; last: rq:worker:{name}
-- ARGV   1 count   2 worker name   3 now (RQ's text form)   4 lease (s)   5 grace (s)   6 execution id prefix
-- reply  list of {job id, execution id, queue's place in KEYS (1-based), lease deadline (epoch s), job hash as a flat list}
--
-- An id whose job is gone, or is not `queued` (it was cancelled; or it stands in the list twice and runs already), is
-- dropped from the list. While `rq suspend` is in force nothing is claimed.
if redis.call('EXISTS', 'rq:suspended') == 1 then return {} end
local count, worker, now_text = tonumber(ARGV[1]), ARGV[2], ARGV[3]
local lease, grace, prefix = tonumber(ARGV[4]), tonumber(ARGV[5]), ARGV[6]
local time = redis.call('TIME')
local now = tonumber(time[1]) + tonumber(time[2]) / 1e6
local deadline = now + lease
local score = string.format('%.6f', deadline + grace)
local ttl = math.ceil(lease + grace) + 60
local claimed = {}

local function start(job, place)
  local execution = prefix .. string.format('%08x', #claimed)
  local record = 'rq:execution:' .. job .. ':' .. execution
  redis.call('HSET', record, 'id', execution, 'created_at', string.format('%.6f', now),
    'last_heartbeat', string.format('%.6f', now), 'worker_name', worker,
    'lease_until', string.format('%.6f', deadline))
  redis.call('EXPIRE', record, ttl)
  redis.call('ZADD', 'rq:executions:' .. job, score, execution)
  redis.call('EXPIRE', 'rq:executions:' .. job, ttl)
  redis.call('ZADD', KEYS[2 * place], score, job .. ':' .. execution)
  redis.call('HSET', 'rq:job:' .. job, 'status', 'started', 'started_at', now_text,
    'last_heartbeat', now_text, 'worker_name', worker)
  redis.call('PERSIST', 'rq:job:' .. job)
  claimed[#claimed + 1] = {job, execution, place, string.format('%.6f', deadline), redis.call('HGETALL', 'rq:job:' .. job)}
end

for place = 1, (#KEYS - 1) / 2 do
  while #claimed < count do
    local jobs = redis.call('LPOP', KEYS[2 * place - 1], count - #claimed)
    if not jobs then break end
    for _, job in ipairs(jobs) do
      if redis.call('HGET', 'rq:job:' .. job, 'status') == 'queued' then start(job, place) end
    end
  end
end
if #claimed > 0 then
  redis.call('HSET', KEYS[#KEYS], 'state', 'busy', 'current_job', claimed[#claimed][1])
end
return claimed
