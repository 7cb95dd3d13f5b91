-- sweep: drop open jobs of a tenant that have ended without any script of ours, a bounded stretch of them.
--
-- KEYS   1 slalom:open:{tenant}:{tier}
-- ARGV   1 tenant   2 tier   3 first place   4 most entries   5 how old an entry without a record must be (s)
-- reply  {how many were looked at, how many were dropped}
-- with open
local now = tonumber(redis.call('TIME')[1])
return {sweep_open(ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4]), now - tonumber(ARGV[5]))}
