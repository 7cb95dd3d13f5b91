-- renew: extend the leases of a worker's jobs in flight.
--
-- KEYS   none
-- ARGV   1 lease (s)   2 grace (s)   3 now (RQ's text form)   then per execution: queue, job id, execution id
-- reply  list, one per execution: 'held', 'lost' (it was rescued; drop it), 'stop' (its caller cancelled it) or 'expired'
--        (its `finish_by` has passed)
local lease, grace, now_text = tonumber(ARGV[1]), tonumber(ARGV[2]), ARGV[3]
local time = redis.call('TIME')
local now = tonumber(time[1]) + tonumber(time[2]) / 1e6
local deadline = string.format('%.6f', now + lease)
local score = string.format('%.6f', now + lease + grace)
local ttl = math.ceil(lease + grace) + 60
local verdicts = {}

for i = 4, #ARGV, 3 do
  local registry, job, execution = 'rq:wip:' .. ARGV[i], ARGV[i + 1], ARGV[i + 2]
  local member = job .. ':' .. execution
  if not redis.call('ZSCORE', registry, member) then
    verdicts[#verdicts + 1] = 'lost'
  else
    local record = 'rq:execution:' .. member
    redis.call('ZADD', registry, score, member)
    redis.call('HSET', record, 'last_heartbeat', string.format('%.6f', now), 'lease_until', deadline)
    redis.call('EXPIRE', record, ttl)
    redis.call('ZADD', 'rq:executions:' .. job, score, execution)
    redis.call('EXPIRE', 'rq:executions:' .. job, ttl)
    redis.call('HSET', 'rq:job:' .. job, 'last_heartbeat', now_text)
    local fields = redis.call('HMGET', 'rq:job:' .. job, 'stop_requested', 'finish_by')
    local finish_by = tonumber(fields[2] or '')
    local is_late = finish_by and finish_by > 0 and finish_by < now
    verdicts[#verdicts + 1] = fields[1] and 'stop' or is_late and 'expired' or 'held'
  end
end
return verdicts
