-- list_jobs: read a stretch of a tenant's list of jobs, latest first, and drop ids whose record has expired.
--
-- KEYS   1 slalom:jobs:{tenant}
-- ARGV   1 most entries   2 score, '+inf' to begin   3 job id at that score behind which to go on, '' for all below the score
-- reply  list, one per entry: {job id, score, status, origin, meta, created_at, enqueued_at, started_at, ended_at, start_by,
--        finish_by, failure text of the latest result of a failed one (base64 of zlib)}; a dropped id is {job id, score};
--        what a record lacks is false
--
-- Where the job has left the list, the reply begins with all of its score: the caller skips those before the id.
local key, limit, score, job = KEYS[1], tonumber(ARGV[1]), ARGV[2], ARGV[3]

local function read(...)
  local reply = redis.pcall(...)
  return (type(reply) == 'table' and reply.err) and {} or reply
end

local function failure_text(id)
  local latest = read('XREVRANGE', 'rq:results:' .. id, '+', '-', 'COUNT', 1)[1]
  for i = 1, latest and #latest[2] or 0, 2 do
    if latest[2][i] == 'exc_string' then return latest[2][i + 1] end
  end
  return false
end

local rank = job ~= '' and redis.call('ZREVRANK', key, job)
local first = rank and rank + 1 or redis.call('ZCOUNT', key, (job ~= '' and '(' or '') .. score, '+inf')
local found = redis.call('ZREVRANGE', key, first, first + limit - 1, 'WITHSCORES')
local entries = {}
for i = 1, #found, 2 do
  local id = found[i]
  local entry = {id, found[i + 1]}
  if redis.call('EXISTS', 'rq:job:' .. id) == 0 then
    redis.call('ZREM', key, id)
  else
    local fields = read('HMGET', 'rq:job:' .. id, 'status', 'origin', 'meta', 'created_at', 'enqueued_at', 'started_at',
      'ended_at', 'start_by', 'finish_by')
    for n = 1, 9 do entry[n + 2] = fields[n] or false end
    entry[12] = fields[1] == 'failed' and failure_text(id)
  end
  entries[#entries + 1] = entry
end
return entries
