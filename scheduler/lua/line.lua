-- line: look at all queues at one instant, and at the place of one job.
--
-- KEYS   four per queue in rank order: rq:queue:{q}, slalom:line:{q}, rq:wip:{q}, slalom:turns:{q}
-- ARGV   1 which of the queues is the job's (1-based)   2 job id, or '' of one that is about to come   3 reach
--        4 the line that one about to come will wait in, '' for the queue's own list   5 most lines of a queue to count
--        6 most lines of the job's queue to tell of
-- reply  {'1' while `rq suspend` is in force, list of {waiting, in flight, jobs and work that ever entered, place of the
--        first in line, then of its tenants' lines: waiting, jobs and work that ever entered}, index of the job or -1, its
--        place, the place at index `reach`, the line of the job or '', {waiting in that, jobs and work that ever entered,
--        place of the first}, list of {line, waiting, weight, turn} of the lines of its queue}; a place that is unknown is ''
--
-- The index is exact within `reach` of either end of the list; in between it costs too much in a long one, and is -1.
local own, job, reach, line = tonumber(ARGV[1]), ARGV[2], tonumber(ARGV[3]), ARGV[4]
local most_counted, most_told = tonumber(ARGV[5]), tonumber(ARGV[6])

local function place_of(id)
  return id and redis.call('HGET', 'rq:job:' .. id, 'place') or ''
end

local function sums_of(key, jobs, work)
  local sums = redis.call('HMGET', key, jobs, work)
  return sums[1] or '0', sums[2] or '0'
end

-- Return the lines that take turns in a queue, up to `most` of them, and how many jobs wait in those of tenants.
local function lines_of(i, most)
  local found, lines, waiting = redis.call('ZRANGE', KEYS[i + 3], 0, most_counted - 1, 'WITHSCORES'), {}, 0
  local weights = 'slalom:weights:' .. string.sub(KEYS[i], #'rq:queue:' + 1)
  for j = 1, #found, 2 do
    local key = 'rq:queue:' .. found[j]
    local length = redis.call('LLEN', key)
    if key ~= KEYS[i] then waiting = waiting + length end
    if #lines < most then
      lines[#lines + 1] = {found[j], length, redis.call('HGET', weights, found[j]) or '1', found[j + 1]}
    end
  end
  return lines, waiting
end

local queues, lines_of_own = {}, {}
for i = 1, #KEYS, 4 do
  local is_own = i == 4 * own - 3
  local lines, lined = lines_of(i, is_own and most_told or 0)
  if is_own then lines_of_own = lines end
  local jobs, work = sums_of(KEYS[i + 1], 'jobs', 'work')
  queues[#queues + 1] = {redis.call('LLEN', KEYS[i]), redis.call('ZCARD', KEYS[i + 2]), jobs, work,
    place_of(redis.call('LINDEX', KEYS[i], 0)), lined, sums_of(KEYS[i + 1], 'lined_jobs', 'lined_work')}
end

if job ~= '' then line = redis.call('HGET', 'rq:job:' .. job, 'line') or '' end
local key, view = KEYS[4 * own - 3], queues[own]
local stand = {view[1], view[3], view[4], view[5]}
if line ~= '' then
  key = 'rq:queue:' .. line
  local jobs, work = sums_of('slalom:line:' .. line, 'jobs', 'work')
  stand = {redis.call('LLEN', key), jobs, work, place_of(redis.call('LINDEX', key, 0))}
end
local index = stand[1]
if job ~= '' then
  index = redis.call('LPOS', key, job, 'MAXLEN', reach)
    or redis.call('LPOS', key, job, 'RANK', -1, 'MAXLEN', reach) or -1
end
return {redis.call('EXISTS', 'rq:suspended'), queues, index, job ~= '' and place_of(job) or '',
  place_of(redis.call('LINDEX', key, reach)), line, stand, lines_of_own}
