-- rescue: take back jobs of a queue whose worker or engine died: requeue them in front, or make them dead letters.
--
-- KEYS   1 rq:wip:{q}   2 rq:failed:{q}
-- ARGV   1 queue   2 grace (s)   3 most deaths of a job   4 most jobs in this call   5 now (RQ's text form)
--        6, 7 a dead letter's failure text as zlib and as its base64, where it died among others   8, 9 where it died alone
--        10 failure ttl (s) of jobs without one
--        then, where a worker reports its engine's death: members of rq:wip:{q}; without any, those whose lease expired
-- reply  {ids requeued, ids made dead letters}
--
-- An execution with `lease_until` is ours and expires by that. One without is a plain RQ worker's, or its record has
-- expired: it is taken when its score in the registry has passed.
--
-- What is requeued is a suspect from then on: it runs alone, so that its next death tells on it and on nothing else.
-- with open
-- with lines
local REPORTED = 11
local queue, grace, max_deaths, limit = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local now_text, default_ttl = ARGV[5], tonumber(ARGV[10])
local time = redis.call('TIME')
local now = tonumber(time[1]) + tonumber(time[2]) / 1e6

local function execution_of(member, score)
  local job, id = string.match(member, '^(.*):([^:]*)$')
  local record = redis.call('HMGET', 'rq:execution:' .. member, 'lease_until', 'alone', 'created_at')
  return {member = member, job = job, id = id, expires = tonumber(record[1] or '') or score,
    alone = record[2] == '1', started = tonumber(record[3] or '') or 0}
end

local function expired()
  local executions = {}
  local found = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now + grace, 'WITHSCORES', 'LIMIT', 0, limit)
  for i = 1, #found, 2 do
    local execution = execution_of(found[i], tonumber(found[i + 1]))
    if execution.expires < now then executions[#executions + 1] = execution end
  end
  return executions
end

local function reported()
  local executions = {}
  for i = REPORTED, #ARGV do
    local score = redis.call('ZSCORE', KEYS[1], ARGV[i])
    if score then executions[#executions + 1] = execution_of(ARGV[i], tonumber(score)) end
  end
  return executions
end

-- End the execution; say whether there is a job left to put anywhere.
local function leave(execution)
  if redis.call('ZREM', KEYS[1], execution.member) == 0 then return false end  -- reported twice
  redis.call('DEL', 'rq:execution:' .. execution.member)
  redis.call('ZREM', 'rq:executions:' .. execution.job, execution.id)
  return redis.call('HEXISTS', 'rq:job:' .. execution.job, 'data') == 1
end

local function bury(execution)
  local key = 'rq:job:' .. execution.job
  local text, text64 = ARGV[6], ARGV[7]
  if execution.alone then text, text64 = ARGV[8], ARGV[9] end
  local ttl = tonumber(redis.call('HGET', key, 'failure_ttl') or '') or default_ttl
  redis.call('HSET', key, 'status', 'failed', 'ended_at', now_text, 'exc_info', text)
  redis.call('XADD', 'rq:results:' .. execution.job, 'MAXLEN', '10', '*', 'type', '2', 'worker_name', '',
    'exc_string', text64, 'execution_id', execution.id)
  if ttl > 0 then
    redis.call('EXPIRE', key, ttl)
    redis.call('EXPIRE', 'rq:results:' .. execution.job, ttl)
  end
  redis.call('ZADD', KEYS[2], ttl < 0 and '+inf' or math.floor(now) + ttl, execution.job)
end

local function requeue(execution)
  redis.call('HSET', 'rq:job:' .. execution.job, 'status', 'queued', 'started_at', '', 'worker_name', '', 'suspect', 1)
  put(queue, execution.job, 'LPUSH')
end

local executions = #ARGV < REPORTED and expired() or reported()
table.sort(executions, function(a, b)  -- the last claimed first, so that the first comes to stand in front
  if a.started ~= b.started then return a.started > b.started end
  return a.id > b.id
end)
local requeued, dead = {}, {}
for _, execution in ipairs(executions) do
  if leave(execution) then
    if redis.call('HINCRBY', 'rq:job:' .. execution.job, 'worker_deaths', 1) >= max_deaths then
      bury(execution)
      leave_open(execution.job)
      dead[#dead + 1] = execution.job
    else
      requeue(execution)
      requeued[#requeued + 1] = execution.job
    end
  end
end
if #dead > 0 then redis.call('PUBLISH', 'slalom:ended', table.concat(dead, ' ')) end
return {requeued, dead}
