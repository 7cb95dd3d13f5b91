-- dead_letters: read a stretch of a failed registry, highest score first, and drop ids whose record has expired.
--
-- KEYS   1 rq:failed:{q}
-- ARGV   1 most entries   then, to go on behind an entry whether or not it still stands there: 2 its score   3 its job id
-- reply  list, one per entry: {job id, score, status, meta, ended_at, worker_deaths, attempts, failure text of the latest
--        result (base64 of zlib)}; a dropped id is {job id, score}; what a record lacks is false
--
-- Entries of one score stand in the order of their bytes. Lua's own comparison is the locale's; `before` is not.
local key, limit, score, job = KEYS[1], tonumber(ARGV[1]), ARGV[2], ARGV[3]

local function before(a, b)
  for i = 1, math.min(#a, #b) do
    if a:byte(i) ~= b:byte(i) then return a:byte(i) < b:byte(i) end
  end
  return #a < #b
end

local function place_behind()
  local low = redis.call('ZCOUNT', key, '(' .. score, '+inf')
  local high = low + redis.call('ZCOUNT', key, score, score)
  while low < high do
    local middle = math.floor((low + high) / 2)
    if before(redis.call('ZREVRANGE', key, middle, middle)[1], job) then high = middle else low = middle + 1 end
  end
  return low
end

local function read(...)
  local reply = redis.pcall(...)
  return (type(reply) == 'table' and reply.err) and {} or reply
end

local function failure_text(id)
  local latest = read('XREVRANGE', 'rq:results:' .. id, '+', '-', 'COUNT', 1)[1]
  for i = 1, latest and #latest[2] or 0, 2 do
    if latest[2][i] == 'exc_string' then return latest[2][i + 1] end
  end
  return false
end

local first = score and place_behind() or 0
local found = redis.call('ZREVRANGE', key, first, first + limit - 1, 'WITHSCORES')
local entries = {}
for i = 1, #found, 2 do
  local id = found[i]
  if redis.call('EXISTS', 'rq:job:' .. id) == 0 then
    redis.call('ZREM', key, id)
    entries[#entries + 1] = {id, found[i + 1]}
  else
    local fields = read('HMGET', 'rq:job:' .. id, 'status', 'meta', 'ended_at', 'worker_deaths',
      'attempts')
    entries[#entries + 1] = {id, found[i + 1], fields[1] or false, fields[2] or false, fields[3] or false,
      fields[4] or false, fields[5] or false, failure_text(id)}
  end
end
return entries
