-- release: hand jobs in flight back to the front of their queues, uncharged.
--
-- KEYS   none
-- ARGV   per execution: queue, job id, execution id
-- reply  number of jobs handed back (those whose lease was lost are somebody else's already)
local released = 0
for i = #ARGV - 2, 1, -3 do
  local queue, job, execution = ARGV[i], ARGV[i + 1], ARGV[i + 2]
  local member = job .. ':' .. execution
  if redis.call('ZREM', 'rq:wip:' .. queue, member) == 1 then
    redis.call('DEL', 'rq:execution:' .. member)
    redis.call('ZREM', 'rq:executions:' .. job, execution)
    redis.call('HSET', 'rq:job:' .. job, 'status', 'queued', 'started_at', '', 'worker_name', '')
    redis.call('HINCRBY', 'rq:job:' .. job, 'attempts', -1)
    redis.call('LPUSH', 'rq:queue:' .. queue, job)
    released = released + 1
  end
end
return released
