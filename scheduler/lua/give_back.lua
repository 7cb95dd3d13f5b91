-- give_back: take back what a job was charged that was not queued after all.
--
-- KEYS   1 slalom:rate:{tenant}:{tier}   2 slalom:open:{tenant}:{tier}   3 rq:job:{id}
-- ARGV   1 tenant   2 tier   3 job id   4 its tokens
-- reply  1; 0 where nothing was given back: the job stands in Redis, or was not charged
-- with open
local member = ARGV[3] .. ':' .. ARGV[4]
local accepted_at = redis.call('ZSCORE', KEYS[2], member)
if not accepted_at or redis.call('EXISTS', KEYS[3]) == 1 then return 0 end
close_entry(ARGV[1], ARGV[2], member)

local second = string.format('%.0f', math.floor(tonumber(accepted_at)))
local requests, tokens = string.match(redis.call('HGET', KEYS[1], second) or '', '^(%d+) (%d+)$')
if requests then
  local left = math.max(0, tonumber(tokens) - tonumber(ARGV[4]))
  redis.call('HSET', KEYS[1], second, string.format('%.0f %.0f', math.max(0, tonumber(requests) - 1), left))
end
return 1
