-- lines: a part of the scripts that say `with lines`: where a job waits, and whose turn it is.
--
-- A job with a home, "{weight} {line}" in its record, waits in the list of that line, rq:queue:{line}; any other, and one
-- that is promoted, in the list of its queue, rq:queue:{q}, which is a line like the others as soon as there are others.
--
-- slalom:turns:{q} has the lines of a queue in which jobs wait, or did lately, each with its turn: what it had, in work over
-- weight. The smallest is next. A line that comes begins there: idling earns nothing. One that is empty keeps its turn until
-- that is the smallest, so that leaving and coming again earns nothing either.
local function is_line(queue, line) return line ~= queue end

-- Let a line take turns.
local function seat(queue, line, weight)
  local turns = 'slalom:turns:' .. queue
  if redis.call('ZSCORE', turns, line) then return end
  redis.call('ZADD', turns, redis.call('ZRANGE', turns, 0, 0, 'WITHSCORES')[2] or '0', line)
  if is_line(queue, line) then redis.call('HSETNX', 'slalom:weights:' .. queue, line, weight) end
end

local function unseat(queue, line)
  redis.call('ZREM', 'slalom:turns:' .. queue, line)
  if is_line(queue, line) then
    redis.call('HDEL', 'slalom:weights:' .. queue, line)
    redis.call('SREM', 'rq:queues', 'rq:queue:' .. line)
  end
end

-- Return the weight and the line of a job's home, nothing where it has none.
local function parse(home) return string.match(home or '', '^(%S+) (.+)$') end

-- Let a job wait where it belongs; `push` is LPUSH or RPUSH.
local function put(queue, job, push)
  local key = 'rq:job:' .. job
  local fields = redis.call('HMGET', key, 'home', 'promoted')
  local weight, line = parse(fields[1])
  if not line or fields[2] then
    redis.call(push, 'rq:queue:' .. queue, job)
    return
  end
  seat(queue, line, weight)
  redis.call('SADD', 'rq:queues', 'rq:queue:' .. line)
  redis.call('HSET', key, 'line', line)
  redis.call(push, 'rq:queue:' .. line, job)
  if redis.call('EXISTS', 'slalom:bell:' .. queue) == 0 then redis.call('RPUSH', 'slalom:bell:' .. queue, '1') end
end

-- Return the list in which a job of the queue waits.
local function list_of(queue, job)
  return 'rq:queue:' .. (redis.call('HGET', 'rq:job:' .. job, 'line') or queue)
end
