-- events: append to the logs of jobs in flight, each only while its execution holds its lease, and tell who follows.
--
-- KEYS   none
-- ARGV   1 ttl (s) of the log of a job that runs
--        then per job: queue, job id, execution id, attempt, ttl (s) of its log from now on ('' while the job runs; -1 for
--        ever), number of entries, and of each: n, body
-- reply  list, one per job: 'held' or 'lost' (rescued, or ended by another, or its log is none: no more is to be written)
--
-- Entries have ids of their own, {attempt}-{n}. What is there already, because the reply to the same call was lost, is not
-- written twice: Redis refuses an id that is not above the last.
local running_ttl = ARGV[1]
local verdicts, told = {}, {}
local i = 2

local function add(key, job, id, body)
  local added = redis.pcall('XADD', key, id, 'body', body)
  if type(added) ~= 'table' then
    told[#told + 1] = job .. ' ' .. id .. ' ' .. body
    return true
  end
  return string.find(added.err, 'equal or smaller', 1, true) ~= nil, added
end

while i <= #ARGV do
  local queue, job, execution, attempt, ttl = ARGV[i], ARGV[i + 1], ARGV[i + 2], ARGV[i + 3], ARGV[i + 4]
  local num_entries = tonumber(ARGV[i + 5])
  local key = 'slalom:events:' .. job
  local holds = redis.call('ZSCORE', 'rq:wip:' .. queue, job .. ':' .. execution)
  verdicts[#verdicts + 1] = holds and 'held' or 'lost'
  i = i + 6
  for place = i, i + 2 * num_entries - 2, 2 do
    if holds then
      local done, failed = add(key, job, attempt .. '-' .. ARGV[place], ARGV[place + 1])
      if failed and string.find(failed.err, 'WRONGTYPE', 1, true) then
        holds, verdicts[#verdicts] = false, 'lost'
      elseif not done then
        return failed
      elseif ARGV[place] == '0' then
        redis.call('EXPIRE', key, running_ttl)
      end
    end
  end
  i = i + 2 * num_entries
  if holds and ttl == '-1' then redis.call('PERSIST', key) end
  if holds and ttl ~= '' and ttl ~= '-1' then redis.call('EXPIRE', key, ttl) end
end
if #told > 0 then redis.call('PUBLISH', 'slalom:events', table.concat(told, '\n')) end
return verdicts
