-- stream: have the tokens of a job kept from its next start on, because somebody follows it; one that has ended is left.
--
-- KEYS   1 rq:job:{id}
-- ARGV   none
-- reply  1 if it is so now, 0 if the job has ended or there is none
local status = redis.call('HGET', KEYS[1], 'status')
local ended = {finished = true, failed = true, stopped = true, canceled = true}
if not status or ended[status] then return 0 end
redis.call('HSETNX', KEYS[1], 'stream', 1)
return 1
