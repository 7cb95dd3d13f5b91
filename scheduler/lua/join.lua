-- join: let a job wait at the end of its line, within the transaction that queues it.
--
-- KEYS   1 rq:job:{id}
-- ARGV   1 queue   2 job id   3 weight of its line, from now on   4 its line
-- reply  nothing
-- with lines
local queue, job, weight, line = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
redis.call('HSET', KEYS[1], 'home', weight .. ' ' .. line)
put(queue, job, 'RPUSH')
redis.call('HSET', 'slalom:weights:' .. queue, line, weight)
