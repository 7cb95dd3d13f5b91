-- settle: let jobs that RQ's own code has ended leave their tenants' open ones.
--
-- KEYS   none
-- ARGV   job ids
-- reply  number of those that have ended
-- with open
local num_ended = 0
for _, job in ipairs(ARGV) do
  if HAS_ENDED[redis.call('HGET', 'rq:job:' .. job, 'status')] then
    leave_open(job)
    num_ended = num_ended + 1
  end
end
return num_ended
