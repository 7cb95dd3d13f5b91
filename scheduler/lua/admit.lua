-- admit: charge a tenant with one more job of a tier, unless one of its limits says no.
--
-- KEYS   1 slalom:rate:{tenant}:{tier}   2 slalom:open:{tenant}:{tier}   3 slalom:open:{tenant}
-- ARGV   1 tenant   2 tier   3 job id ('': only look)   4 its tokens   5 most requests a minute   6 most tokens a minute
--        7 most open jobs   8 most open tokens ('' each for no limit)   9 now (epoch s; '': by Redis's clock)
-- reply  {which limit says no, 1 to 4 in their order, and nothing was charged; 0 if none does, ms until it would not (-1 where
--        that is not known), requests and tokens of the last minute, open jobs, open tokens, ms until the minute is empty}
--
-- The minute is kept by the second, and a second counts until all of it is more than a minute ago: there is no span of a
-- minute in which more is let in than the limit says, and nothing counts for longer than 61 seconds.
--
-- A job that is open already, because its caller did not get the reply and asks again, is not charged twice.
-- with open
local MINUTE, SWEPT, YOUNG_S = 60, 100, 60
local tenant, tier, job, tokens = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4])
local now = tonumber(ARGV[9])
if not now then
  local time = redis.call('TIME')
  now = tonumber(time[1]) + tonumber(time[2]) / 1e6
end
local second = math.floor(now)

-- Return what came in each second that counts, oldest first, as {second, requests, tokens}; forget the others.
local function read_minute()
  local fields, seconds, gone = redis.call('HGETALL', KEYS[1]), {}, {}
  for i = 1, #fields, 2 do
    local at = tonumber(fields[i])
    local requests, sum = string.match(fields[i + 1], '^(%d+) (%d+)$')
    if sum and at and math.abs(at - second) <= MINUTE then
      seconds[#seconds + 1] = {at, tonumber(requests), tonumber(sum)}
    else
      gone[#gone + 1] = fields[i]
    end
  end
  if #gone > 0 then redis.call('HDEL', KEYS[1], unpack(gone)) end
  table.sort(seconds, function(a, b) return a[1] < b[1] end)
  return seconds
end

local seconds = read_minute()
local used = {0, 0, redis.call('ZCARD', KEYS[2]), tonumber(redis.call('HGET', KEYS[3], tier) or '0')}
local latest = {0, 0}
for _, of_second in ipairs(seconds) do
  used[1], used[2] = used[1] + of_second[2], used[2] + of_second[3]
  latest = of_second
end

local function ms_until_counted_out(at) return math.max(1, math.ceil((at + MINUTE + 1 - now) * 1000)) end

local function answer(limit, wait_ms)
  local reset_ms = #seconds > 0 and ms_until_counted_out(seconds[#seconds][1]) or 0
  return {limit, wait_ms, used[1], used[2], used[3], used[4], reset_ms}
end

if job == '' or redis.call('ZSCORE', KEYS[2], job .. ':' .. ARGV[4]) then return answer(0, 0) end

local cost = {1, tokens, 1, tokens}
local function is_over(limit)
  local most = tonumber(ARGV[4 + limit])
  return most and used[limit] + cost[limit] > most
end

for limit = 1, 2 do
  if is_over(limit) then
    local too_much = used[limit] + cost[limit] - tonumber(ARGV[4 + limit])
    for _, of_second in ipairs(seconds) do
      too_much = too_much - of_second[1 + limit]
      if too_much <= 0 then return answer(limit, ms_until_counted_out(of_second[1])) end
    end
    return answer(limit, -1)
  end
end
if is_over(3) or is_over(4) then
  sweep_open(tenant, tier, 0, SWEPT, now - YOUNG_S)
  used[3], used[4] = redis.call('ZCARD', KEYS[2]), tonumber(redis.call('HGET', KEYS[3], tier) or '0')
end
for limit = 3, 4 do
  if is_over(limit) then return answer(limit, -1) end
end

if latest[1] ~= second then
  latest = {second, 0, 0}
  seconds[#seconds + 1] = latest
end
latest[2], latest[3] = latest[2] + 1, latest[3] + tokens
for i = 1, 4 do used[i] = used[i] + cost[i] end
redis.call('HSET', KEYS[1], second, string.format('%.0f %.0f', latest[2], latest[3]))
redis.call('EXPIRE', KEYS[1], 2 * MINUTE)
redis.call('ZADD', KEYS[2], string.format('%.6f', now), job .. ':' .. ARGV[4])
redis.call('HINCRBY', KEYS[3], tier, ARGV[4])
return answer(0, 0)
