-- release: hand jobs in flight back to the front of their lines, uncharged, each with what it has so far.
--
-- KEYS   none
-- ARGV   1 most times that a job goes on from what it has so far
--        then per execution: queue, job id, execution id, so far ('' for nothing)
-- reply  number of jobs handed back (those whose lease was lost are somebody else's already)
-- with lines
local STRIDE = 4
local most_resumed, released = tonumber(ARGV[1]), 0
for i = #ARGV - STRIDE + 1, 2, -STRIDE do
  local queue, job, execution, so_far = ARGV[i], ARGV[i + 1], ARGV[i + 2], ARGV[i + 3]
  local key, member = 'rq:job:' .. job, job .. ':' .. execution
  if redis.call('ZREM', 'rq:wip:' .. queue, member) == 1 then
    redis.call('DEL', 'rq:execution:' .. member)
    redis.call('ZREM', 'rq:executions:' .. job, execution)
    redis.call('HSET', key, 'status', 'queued', 'started_at', '', 'worker_name', '')
    redis.call('HINCRBY', key, 'attempts', -1)
    if so_far ~= '' and tonumber(redis.call('HGET', key, 'resumed') or 0) < most_resumed then
      redis.call('HSET', key, 'so_far', so_far)
    end
    put(queue, job, 'LPUSH')
    released = released + 1
  end
end
return released
