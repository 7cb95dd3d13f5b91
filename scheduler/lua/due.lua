-- due: let jobs whose retry is due wait in their lines again; those without a line are left to RQ's scheduler.
--
-- KEYS   1 rq:scheduled:{q}
-- ARGV   1 queue   2 now (RQ's text form)   3 most jobs to look at   4 how many that were left stand before them
-- reply  {how many were looked at, how many were left}
-- with lines
local queue, now_text, most, skip = ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])
local time = redis.call('TIME')
local now = string.format('%.6f', tonumber(time[1]) + tonumber(time[2]) / 1e6)
local due = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now, 'LIMIT', skip, most)
local num_left = 0
for _, job in ipairs(due) do
  local fields = redis.pcall('HMGET', 'rq:job:' .. job, 'status', 'home')
  if fields[1] == 'scheduled' and parse(fields[2]) then
    redis.call('ZREM', KEYS[1], job)
    redis.call('HSET', 'rq:job:' .. job, 'status', 'queued', 'enqueued_at', now_text)
    put(queue, job, 'RPUSH')
  else
    num_left = num_left + 1
  end
end
return {#due, num_left}
