-- trim_jobs: look through a stretch of a tenant's list of jobs and drop ids whose record has expired.
--
-- KEYS   1 slalom:jobs:{tenant}   2 slalom:listed
-- ARGV   1 cursor of the stretch, '0' to begin   2 about how many entries   3 tenant
-- reply  cursor of the next stretch, '0' at the end
--
-- A list that is empty then is forgotten; who submits next adds it again in the transaction of its job.
local reply = redis.call('ZSCAN', KEYS[1], ARGV[1], 'COUNT', ARGV[2])
for i = 1, #reply[2], 2 do
  local id = reply[2][i]
  if redis.call('EXISTS', 'rq:job:' .. id) == 0 then redis.call('ZREM', KEYS[1], id) end
end
if redis.call('EXISTS', KEYS[1]) == 0 then redis.call('SREM', KEYS[2], ARGV[3]) end
return reply[1]
