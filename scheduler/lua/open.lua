-- open: which jobs of a tenant are open, accepted and not ended. No script of its own: others take these functions in by
-- `-- with open`.
--
--        slalom:open:{tenant}:{tier}   zset    {job}:{tokens} -> when it was accepted (epoch s)
--        slalom:open:{tenant}          hash    tier -> the tokens of those jobs together
--        rq:job:{job}                  account   "tenant tier tokens"
--
-- A job that left, but by a way that no script of ours sees (deleted or cancelled by RQ's own means), is found by `sweep`. An
-- entry without a record may be of a job that is just being accepted, so it is left alone while it is young.
local HAS_ENDED = {finished = true, failed = true, canceled = true, stopped = true}

local function close_entry(tenant, tier, member)
  local key, sums = 'slalom:open:' .. tenant .. ':' .. tier, 'slalom:open:' .. tenant
  if redis.call('ZREM', key, member) == 0 then return 0 end
  local tokens = tonumber(string.match(member, ':(%d+)$')) or 0
  if redis.call('EXISTS', key) == 0 then
    redis.call('HDEL', sums, tier)
  elseif tokens > 0 then
    redis.call('HINCRBY', sums, tier, string.format('-%.0f', tokens))
  end
  return 1
end

local function account_of(job)
  local account = redis.call('HGET', 'rq:job:' .. job, 'account') or ''
  return string.match(account, '^(%S+) (%S+) (%d+)$')
end

-- A job has ended.
local function leave_open(job)
  local tenant, tier, tokens = account_of(job)
  if tenant then close_entry(tenant, tier, job .. ':' .. tokens) end
end

-- A job that had ended goes on.
local function enter_open(job, now)
  local tenant, tier, tokens = account_of(job)
  if tenant and redis.call('ZADD', 'slalom:open:' .. tenant .. ':' .. tier, now, job .. ':' .. tokens) == 1 then
    redis.call('HINCRBY', 'slalom:open:' .. tenant, tier, tokens)
  end
end

-- Drop what has ended of `most` entries from the place `first` on; return how many there were, and how many were dropped.
local function sweep_open(tenant, tier, first, most, accepted_before)
  local found = redis.call('ZRANGE', 'slalom:open:' .. tenant .. ':' .. tier, first, first + most - 1, 'WITHSCORES')
  local num_dropped = 0
  for i = 1, #found, 2 do
    local status = redis.pcall('HGET', 'rq:job:' .. (string.match(found[i], '^(.*):%d+$') or ''), 'status')
    local is_gone = type(status) ~= 'string' and tonumber(found[i + 1]) < accepted_before
    if HAS_ENDED[status] or is_gone then num_dropped = num_dropped + close_entry(tenant, tier, found[i]) end
  end
  return #found / 2, num_dropped
end
