-- depth: count what waits in a queue, in all of its lines, and what is in flight.
--
-- KEYS   1 rq:queue:{q}   2 slalom:turns:{q}   3 rq:wip:{q}
-- reply  {waiting, in flight}
local waiting = redis.call('LLEN', KEYS[1])
for _, line in ipairs(redis.call('ZRANGE', KEYS[2], 0, -1)) do
  local key = 'rq:queue:' .. line
  if key ~= KEYS[1] then waiting = waiting + redis.call('LLEN', key) end
end
return {waiting, redis.call('ZCARD', KEYS[3])}
