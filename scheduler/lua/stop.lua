-- stop: ask for the stop of a job that a worker has claimed, perhaps without knowing it yet.
--
-- KEYS   1 rq:job:{id}
-- ARGV   1 worker
-- reply  1 if the worker runs the job, else 0 (nothing was done)
local fields = redis.call('HMGET', KEYS[1], 'status', 'worker_name')
if fields[1] ~= 'started' or fields[2] ~= ARGV[1] then return 0 end
redis.call('HSET', KEYS[1], 'stop_requested', '1')
return 1
