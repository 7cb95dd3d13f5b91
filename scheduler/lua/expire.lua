-- expire: look after jobs of a queue whose turn in its deadlines has come; each only if its record is as it was seen.
--
-- KEYS   1 slalom:deadlines:{q}   2 rq:scheduled:{q}   3 rq:failed:{q}   4 slalom:promotions:{q}
-- ARGV   1 now (RQ's text form)   2 failure ttl (s) of jobs without one   3 queue
--        then per job: id, its fields status, start_by, finish_by, attempts as they were seen (with spaces between),
--        'end', 'drop' or when to look again (epoch s), its failure text as zlib and as its base64 ('' unless 'end')
-- reply  list, one per job: 'expired', 'awaited' (expired, and other jobs wait for it), or 'left'
--
-- Taking a job out of its queue walks there from the head. The late ones are the old ones, so that is a short way; past
-- MOST_PLACES in one call the rest is left for the next.
-- with open
-- with lines
local STRIDE, MOST_PLACES = 5, 500000
local now_text, default_ttl, queue = ARGV[1], tonumber(ARGV[2]), ARGV[3]
local now = tonumber(redis.call('TIME')[1])
local num_places = 0
local expired, verdicts = {}, {}

local function fields_of(job)
  local fields = redis.pcall('HMGET', 'rq:job:' .. job, 'status', 'start_by', 'finish_by', 'attempts')
  for i = 1, 4 do fields[i] = fields[i] or '' end
  return fields
end

-- Take the job from where it waits; a claim may have done so.
local function leave(job, status)
  if status == 'scheduled' then
    redis.call('ZREM', KEYS[2], job)
  elseif tonumber(redis.call('ZSCORE', KEYS[1], job)) ~= 0 then
    local list = list_of(queue, job)
    local length = redis.call('LLEN', list)
    local place = redis.call('LPOS', list, job) or length
    num_places = num_places + place
    redis.call('LREM', list, 2 * place < length and 1 or -1, job)
    redis.call('HDEL', 'rq:job:' .. job, 'line')
  end
  redis.call('ZREM', KEYS[1], job)
  redis.call('ZREM', KEYS[4], job)
end

local function bury(job, text, text64)
  local key = 'rq:job:' .. job
  local ttl = tonumber(redis.call('HGET', key, 'failure_ttl') or '') or default_ttl
  redis.call('HSET', key, 'status', 'failed', 'ended_at', now_text, 'exc_info', text)
  redis.call('XADD', 'rq:results:' .. job, 'MAXLEN', '10', '*', 'type', '2', 'worker_name', '', 'exc_string', text64)
  if ttl > 0 then
    redis.call('EXPIRE', key, ttl)
    redis.call('EXPIRE', 'rq:results:' .. job, ttl)
  end
  redis.call('ZADD', KEYS[3], ttl < 0 and '+inf' or now + ttl, job)
end

local function look_after(job, seen, order, text, text64)
  local fields = fields_of(job)
  if table.concat(fields, ' ') ~= seen or not redis.call('ZSCORE', KEYS[1], job) then return 'left' end
  if order == 'drop' then
    redis.call('ZREM', KEYS[1], job)
  elseif order ~= 'end' then
    redis.call('ZADD', KEYS[1], order, job)
  elseif num_places < MOST_PLACES then
    leave(job, fields[1])
    bury(job, text, text64)
    leave_open(job)
    expired[#expired + 1] = job
    return redis.call('EXISTS', 'rq:job:' .. job .. ':dependents') == 1 and 'awaited' or 'expired'
  end
  return 'left'
end

for i = 4, #ARGV, STRIDE do
  verdicts[#verdicts + 1] = look_after(ARGV[i], ARGV[i + 1], ARGV[i + 2], ARGV[i + 3], ARGV[i + 4])
end
if #expired > 0 then redis.call('PUBLISH', 'slalom:ended', table.concat(expired, ' ')) end
return verdicts
