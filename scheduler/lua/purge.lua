-- purge: delete a dead letter and everything that is kept of it.
--
-- KEYS   1 rq:job:{id}   2 rq:failed:{q}
-- ARGV   1 job id
-- reply  'purged'; any other status (no dead letter: nothing was done); false if there is no such job, whose id is then
--        dropped
local job = ARGV[1]
if redis.call('EXISTS', KEYS[1]) == 0 then
  redis.call('ZREM', KEYS[2], job)
  return false
end
local status = redis.call('HGET', KEYS[1], 'status') or ''
if status ~= 'failed' or not redis.call('ZSCORE', KEYS[2], job) then return status end

local group = redis.call('HGET', KEYS[1], 'group_id')
if group and group ~= '' then redis.call('SREM', 'rq:group:' .. group, job) end
redis.call('ZREM', KEYS[2], job)
redis.call('DEL', KEYS[1], KEYS[1] .. ':dependents', 'rq:job::' .. job .. ':dependencies',
  'rq:results:' .. job, 'rq:executions:' .. job, 'slalom:events:' .. job)
return 'purged'
