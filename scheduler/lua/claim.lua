-- claim: take up to `count` jobs from the queues in rank order and start them, in one atomic step.
--
-- KEYS   pairs, one per queue in rank order: rq:queue:{q}, rq:wip:{q}; last: rq:worker:{name}
-- ARGV   1 count   2 worker name   3 now (RQ's text form)   4 lease (s)   5 grace (s)   6 execution id prefix
--        7 '1' if the worker has nothing in flight   8 … how many from each queue at most, in their order
-- reply  {number of open queues, list of {job id, execution id, queue's place in KEYS (1-based), alone, job hash as a flat list},
--        1 if more may stand behind what was passed over}
--
-- A queue of which more could be taken than its limit lets closes those behind it: nobody is passed by a lower rank.
--
-- An id whose job is gone, or is neither `queued` nor `created` (its producer pushed the id by hand), is dropped from the
-- list: it was cancelled, or it stands there twice and runs already. While `rq suspend` is in force nothing is claimed.
--
-- A job that is past its deadline, `finish_by` or for one that never started `start_by`, is not started: it leaves its queue
-- and is due at once (0) in slalom:deadlines:{q}, where `scheduler.expiry` ends it. After MOST_PASSED ids that were dropped
-- or late the call ends, so that Redis serves others in between.
--
-- What a job has so far (`so_far`, from its release) is taken out of its record here, so that it is used once. What was left
-- of its answer when it was last cut off (`partial`) goes.
--
-- Who follows a job orders its events by `starts`: unlike `attempts` it never goes back, whatever becomes of the job.
--
-- A suspect (the engine or a worker died with it in flight) is taken alone: as the only job, by a worker with nothing in
-- flight. Any other claim stops in front of it, and leaves its queue and all behind closed, so that its turn comes.
local MOST_PASSED = 1000
local num_queues = (#KEYS - 1) / 2
if redis.call('EXISTS', 'rq:suspended') == 1 then return {num_queues, {}, 0} end
local count, worker, now_text = tonumber(ARGV[1]), ARGV[2], ARGV[3]
local lease, grace, prefix, is_empty = tonumber(ARGV[4]), tonumber(ARGV[5]), ARGV[6], ARGV[7] == '1'
local time = redis.call('TIME')
local now = tonumber(time[1]) + tonumber(time[2]) / 1e6
local deadline = string.format('%.6f', now + lease)
local score = string.format('%.6f', now + lease + grace)
local ttl = math.ceil(lease + grace) + 60
local claimed, num_open, num_passed = {}, num_queues, 0

local function start(job, place, alone)
  local key = 'rq:job:' .. job
  local execution = prefix .. string.format('%08x', #claimed)
  local record = 'rq:execution:' .. job .. ':' .. execution
  local now_s = string.format('%.6f', now)
  redis.call('HSET', record, 'id', execution, 'created_at', now_s, 'last_heartbeat', now_s, 'worker_name', worker,
    'lease_until', deadline, 'alone', alone)
  redis.call('EXPIRE', record, ttl)
  redis.call('ZADD', 'rq:executions:' .. job, score, execution)
  redis.call('EXPIRE', 'rq:executions:' .. job, ttl)
  redis.call('ZADD', KEYS[2 * place], score, job .. ':' .. execution)
  redis.call('HSET', key, 'status', 'started', 'started_at', now_text, 'last_heartbeat', now_text, 'worker_name', worker)
  local attempts = redis.call('HINCRBY', key, 'attempts', 1)
  if redis.call('HEXISTS', key, 'stream') == 1 then
    redis.call('HSET', key, 'starts', math.max(attempts, tonumber(redis.call('HGET', key, 'starts') or 0) + 1))
  end
  redis.call('PERSIST', key)
  claimed[#claimed + 1] = {job, execution, place, alone, redis.call('HGETALL', key)}
  if redis.call('HDEL', key, 'so_far') == 1 then redis.call('HINCRBY', key, 'resumed', 1) end
  redis.call('HDEL', key, 'partial')
end

local function has_passed(instant)
  local at = tonumber(instant or '')
  return at and at > 0 and at < now
end

-- Let a late job wait for its end outside of its queue.
local function put_aside(job, place)
  redis.call('ZADD', 'slalom:deadlines:' .. string.sub(KEYS[2 * place - 1], #'rq:queue:' + 1), 0, job)
end

-- Start what may be started of `jobs`; put back the rest, from the first that may not.
local function start_all(jobs, place)
  for i, job in ipairs(jobs) do
    local fields = redis.call('HMGET', 'rq:job:' .. job, 'status', 'suspect', 'finish_by', 'start_by', 'attempts')
    local waits = fields[1] == 'queued' or fields[1] == 'created'
    local is_late = waits and (has_passed(fields[3]) or not fields[5] and has_passed(fields[4]))
    local is_suspect = fields[2] and waits and not is_late
    if num_open < place or is_suspect and (#claimed > 0 or not is_empty) then
      for j = #jobs, i, -1 do redis.call('LPUSH', KEYS[2 * place - 1], jobs[j]) end
      num_open = place - 1
      return
    elseif not waits or is_late then
      num_passed = num_passed + 1
      if is_late then put_aside(job, place) end
    elseif is_suspect then
      start(job, place, 1)
      num_open = place - 1
    else
      start(job, place, 0)
    end
  end
end

for place = 1, num_queues do
  local most = math.min(count, #claimed + tonumber(ARGV[7 + place]))
  while #claimed < most and num_open >= place and num_passed < MOST_PASSED do
    local jobs = redis.call('LPOP', KEYS[2 * place - 1], most - #claimed)
    if not jobs then break end
    start_all(jobs, place)
  end
  if num_open < place or num_passed >= MOST_PASSED then break end
  if #claimed >= most and redis.call('EXISTS', KEYS[2 * place - 1]) == 1 then break end
end
if #claimed > 0 then
  redis.call('HSET', KEYS[#KEYS], 'state', 'busy', 'current_job', claimed[#claimed][1])
end
return {num_open, claimed, num_passed >= MOST_PASSED and 1 or 0}
