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
-- Within a queue its lines take turns: the next job is that of the line whose turn is the smallest, and moves that turn by its
-- work over the line's weight. What is promoted stands in front of the queue's own list, goes first, and moves the turn of the
-- line that it came from. A job that RQ put back into the queue's own list moves that one's turn and its own line's. Nothing
-- walks over all lines: one that is found empty is dropped, and counts as an id that was passed.
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
-- with lines
local MOST_PASSED, UNKNOWN_WORK = 1000, 256
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

-- What a claim looks at in a record, in this order.
local STATUS, SUSPECT, FINISH_BY, START_BY, ATTEMPTS, STREAM, STARTS, SO_FAR, PARTIAL, LINE = 1, 2, 3, 4, 5, 6, 7, 8, 9, 10
local FIELDS = {'status', 'suspect', 'finish_by', 'start_by', 'attempts', 'stream', 'starts', 'so_far', 'partial', 'line'}

local function start(job, was, place, alone)
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
  if was[STREAM] then redis.call('HSET', key, 'starts', math.max(attempts, tonumber(was[STARTS] or 0) + 1)) end
  redis.call('PERSIST', key)
  claimed[#claimed + 1] = {job, execution, place, alone, redis.call('HGETALL', key)}
  if was[SO_FAR] then redis.call('HINCRBY', key, 'resumed', 1) end
  if was[SO_FAR] or was[PARTIAL] or was[LINE] then redis.call('HDEL', key, 'so_far', 'partial', 'line') end
end

local function has_passed(instant)
  local at = tonumber(instant or '')
  return at and at > 0 and at < now
end

local function queue_at(place) return string.sub(KEYS[2 * place - 1], #'rq:queue:' + 1) end

-- Let a late job wait for its end outside of its queue.
local function put_aside(job, place)
  redis.call('ZADD', 'slalom:deadlines:' .. queue_at(place), 0, job)
  redis.call('HDEL', 'rq:job:' .. job, 'line')
end

-- Start what may be started of `jobs`; put back the rest into their list, from the first that may not.
local function start_all(jobs, place, list)
  for i, job in ipairs(jobs) do
    local was = redis.call('HMGET', 'rq:job:' .. job, unpack(FIELDS))
    local waits = was[STATUS] == 'queued' or was[STATUS] == 'created'
    local is_late = waits and (has_passed(was[FINISH_BY]) or not was[ATTEMPTS] and has_passed(was[START_BY]))
    local is_suspect = was[SUSPECT] and waits and not is_late
    if num_open < place or is_suspect and (#claimed > 0 or not is_empty) then
      for j = #jobs, i, -1 do redis.call('LPUSH', list, jobs[j]) end
      num_open = place - 1
      return
    elseif not waits or is_late then
      num_passed = num_passed + 1
      if is_late then put_aside(job, place) end
    elseif is_suspect then
      start(job, was, place, 1)
      num_open = place - 1
    else
      start(job, was, place, 0)
    end
  end
end

local function may_take(place, most) return #claimed < most and num_open >= place and num_passed < MOST_PASSED end

-- Take from a queue without lines; return whether more stands there.
local function take_in_order(place, most)
  local list = KEYS[2 * place - 1]
  while may_take(place, most) do
    local jobs = redis.call('LPOP', list, most - #claimed)
    if not jobs then return false end
    start_all(jobs, place, list)
  end
  return redis.call('EXISTS', list) == 1
end

-- Return the work of a job that nobody estimated.
local function mean_work(queue)
  local sums = redis.call('HMGET', 'slalom:line:' .. queue, 'jobs', 'work', 'lined_jobs', 'lined_work')
  local num = (tonumber(sums[1]) or 0) + (tonumber(sums[3]) or 0)
  return num > 0 and ((tonumber(sums[2]) or 0) + (tonumber(sums[4]) or 0)) / num or UNKNOWN_WORK
end

-- Move the turn of a line behind `work`.
local function charge(queue, line, work, weight)
  local turns = 'slalom:turns:' .. queue
  if is_line(queue, line) then seat(queue, line, weight) end
  local turn = tonumber(redis.call('ZSCORE', turns, line) or '')
  if not turn then return end
  local weighs = tonumber(is_line(queue, line) and redis.call('HGET', 'slalom:weights:' .. queue, line) or '') or 1
  redis.call('ZADD', turns, string.format('%.17g', turn + work / weighs), line)
end

-- Charge a job that was taken from `line`, by its record.
local function settle(queue, line, record)
  local fields = {}
  for i = 1, #record, 2 do fields[record[i]] = record[i + 1] end
  local work = tonumber(string.match(fields.place or '', '^%S+ %S+ (%d+)') or '') or mean_work(queue)
  local weight, home = parse(fields.home)
  charge(queue, home or queue, work, weight)
  if line ~= (home or queue) and not fields.promoted then charge(queue, line, work, 1) end
end

local function take_from(place, line, count)
  local list, first = 'rq:queue:' .. line, #claimed + 1
  start_all(redis.call('LPOP', list, count), place, list)
  for i = first, #claimed do settle(queue_at(place), line, claimed[i][5]) end
end

local function has_jobs(line) return redis.call('EXISTS', 'rq:queue:' .. line) == 1 end

-- Return the line whose turn it is, and whether it is the only one; drop those before it in which nobody waits. Where none
-- but the queue's own list is left, there are no turns any more.
local function next_line(queue)
  local turns = 'slalom:turns:' .. queue
  while num_passed < MOST_PASSED do
    local found = redis.call('ZRANGE', turns, 0, 1)
    local line, is_only = found[1], not found[2]
    if is_only and (not line or line == queue) then
      redis.call('DEL', turns, 'slalom:bell:' .. queue)
      return has_jobs(queue) and queue or nil, true
    end
    if has_jobs(line) then return line, is_only end
    unseat(queue, line)
    num_passed = num_passed + 1
  end
end

local function has_promoted_first(list)
  local first = redis.call('LINDEX', list, 0)
  return first and redis.call('HEXISTS', 'rq:job:' .. first, 'promoted') == 1
end

-- Take from the lines of a queue in turn; return whether more stands there.
local function take_in_turn(place, most)
  local queue, list = queue_at(place), KEYS[2 * place - 1]
  if has_jobs(queue) then seat(queue, queue) end
  while may_take(place, most) do
    local line, is_only = queue, false
    if not has_promoted_first(list) then line, is_only = next_line(queue) end
    if not line then return false end
    take_from(place, line, is_only and most - #claimed or 1)
  end
  return next_line(queue) ~= nil
end

for place = 1, num_queues do
  local most = math.min(count, #claimed + tonumber(ARGV[7 + place]))
  local has_lines = redis.call('EXISTS', 'slalom:turns:' .. queue_at(place)) == 1
  local has_more = (has_lines and take_in_turn or take_in_order)(place, most)
  if num_open < place or num_passed >= MOST_PASSED or has_more then break end
end
if #claimed > 0 then
  redis.call('HSET', KEYS[#KEYS], 'state', 'busy', 'current_job', claimed[#claimed][1])
end
return {num_open, claimed, num_passed >= MOST_PASSED and 1 or 0}
