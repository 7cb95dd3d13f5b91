-- cancel: take a waiting job out of its queue for good, or ask for the stop of a running one.
--
-- KEYS   1 rq:job:{id}   2 rq:canceled:{q}   3 slalom:deadlines:{q}   4 slalom:promotions:{q}
-- ARGV   1 job id   2 now (RQ's text form)   3 ttl (s) of the canceled job   4 queue
-- reply  the job's status before: 'queued' (it is canceled now), 'started' (its stop is requested), or any other
--        status (nothing was done); false if there is no such job
-- with open
-- with lines
local job, ttl, queue = ARGV[1], tonumber(ARGV[3]), ARGV[4]
local status = redis.call('HGET', KEYS[1], 'status')
if not status then return false end
if status == 'queued' then
  redis.call('LREM', list_of(queue, job), 1, job)
  redis.call('ZREM', KEYS[3], job)
  redis.call('ZREM', KEYS[4], job)
  leave_open(job)
  redis.call('HSET', KEYS[1], 'status', 'canceled', 'ended_at', ARGV[2])
  redis.call('HDEL', KEYS[1], 'so_far', 'resumed', 'line')
  redis.call('EXPIRE', KEYS[1], ttl)
  redis.call('ZADD', KEYS[2], redis.call('TIME')[1], job)
  redis.call('PUBLISH', 'slalom:ended', job)
elseif status == 'started' then
  redis.call('HSET', KEYS[1], 'stop_requested', '1')
end
return status
