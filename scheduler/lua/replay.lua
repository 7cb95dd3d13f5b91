-- replay: put a dead letter back at the end of its queue, as if it had never run; a suspect stays one.
--
-- KEYS   1 rq:job:{id}   2 rq:failed:{q}   3 rq:queue:{q}
-- ARGV   1 job id   2 now (RQ's text form)   3 meta as it was read   4 meta to write ('' to leave it)
--        5 retries ('' to leave them)
-- reply  'replayed'; 'changed' (the meta is another by now: nothing was done); any other status (no dead letter: nothing
--        was done); false if there is no such job, whose id is then dropped
local job = ARGV[1]
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
redis.call('HDEL', KEYS[1], 'attempts', 'worker_deaths', 'stop_requested', 'number_of_retries', 'exc_info')
if ARGV[4] ~= '' then redis.call('HSET', KEYS[1], 'meta', ARGV[4]) end
if ARGV[5] ~= '' then redis.call('HSET', KEYS[1], 'retries_left', ARGV[5]) end
local ttl = tonumber(redis.call('HGET', KEYS[1], 'ttl') or '')
if ttl and ttl > 0 then redis.call('EXPIRE', KEYS[1], ttl) else redis.call('PERSIST', KEYS[1]) end
redis.call('SADD', 'rq:queues', KEYS[3])
redis.call('RPUSH', KEYS[3], job)
return 'replayed'
