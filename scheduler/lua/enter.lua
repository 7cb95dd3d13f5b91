-- enter: give a job that is being queued its place in the line, within the transaction that queues it.
--
-- KEYS   1 rq:job:{id}   2 slalom:line:{q}, or where it waits in a tenant's line slalom:line:{line} and   3 slalom:line:{q}
-- ARGV   1 expected work   2 queue or line   3 how long the odometer of a line is kept (s)
-- reply  the place: number in the line, work that ever entered before it, its own work, queue or line
local number = redis.call('HINCRBY', KEYS[2], 'jobs', 1)
local before = redis.call('HINCRBY', KEYS[2], 'work', ARGV[1]) - ARGV[1]
local place = string.format('%.0f %.0f %s %s', number, before, ARGV[1], ARGV[2])
redis.call('HSET', KEYS[1], 'place', place)
if KEYS[3] then
  redis.call('EXPIRE', KEYS[2], ARGV[3])
  redis.call('HINCRBY', KEYS[3], 'lined_jobs', 1)
  redis.call('HINCRBY', KEYS[3], 'lined_work', ARGV[1])
end
return place
