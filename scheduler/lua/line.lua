-- line: look at all queues at one instant, and at the place of one job.
--
-- KEYS   three per queue in rank order: rq:queue:{q}, slalom:line:{q}, rq:wip:{q}
-- ARGV   1 which of the queues is the job's (1-based)   2 job id, or '' of one that is about to come   3 reach
-- reply  {'1' while `rq suspend` is in force, list of {waiting, in flight, jobs and work that ever entered, place of the
--        first in line}, index of the job or -1, its place, the place at index `reach`}; a place that is unknown is ''
--
-- The index is exact within `reach` of either end of the queue; in between it costs too much in a long one, and is -1.
local own, job, reach = tonumber(ARGV[1]), ARGV[2], tonumber(ARGV[3])

local function place_of(id)
  return id and redis.call('HGET', 'rq:job:' .. id, 'place') or ''
end

local queues = {}
for i = 1, #KEYS, 3 do
  local entered = redis.call('HMGET', KEYS[i + 1], 'jobs', 'work')
  queues[#queues + 1] = {redis.call('LLEN', KEYS[i]), redis.call('ZCARD', KEYS[i + 2]), entered[1] or '0',
    entered[2] or '0', place_of(redis.call('LINDEX', KEYS[i], 0))}
end

local key = KEYS[3 * own - 2]
local index = queues[own][1]
if job ~= '' then
  index = redis.call('LPOS', key, job, 'MAXLEN', reach)
    or redis.call('LPOS', key, job, 'RANK', -1, 'MAXLEN', reach) or -1
end
return {redis.call('EXISTS', 'rq:suspended'), queues, index, job ~= '' and place_of(job) or '',
  place_of(redis.call('LINDEX', key, reach))}
