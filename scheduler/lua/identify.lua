-- identify: read everything that says who calls with an API key.
--
-- KEYS   1 slalom:tenants   2 slalom:api-keys
-- ARGV   1 hash of the key, or '' where none was sent
-- reply  {number of tenants, now (epoch s)}, and for a key that is known behind these: its tenant, the record of the tenant,
--        its own record, when it was last used (false for what is missing)
local time = redis.call('TIME')
local reply = {redis.call('HLEN', KEYS[1]), string.format('%.3f', tonumber(time[1]) + tonumber(time[2]) / 1e6)}
local tenant = ARGV[1] ~= '' and redis.call('HGET', KEYS[2], ARGV[1])
if tenant then
  reply[3] = tenant
  reply[4] = redis.call('HGET', KEYS[1], tenant)
  reply[5] = redis.call('HGET', 'slalom:api-keys:' .. tenant, ARGV[1])
  reply[6] = redis.call('HGET', 'slalom:key-uses:' .. tenant, ARGV[1])
end
return reply
