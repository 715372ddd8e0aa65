-- How many items a second the sources may bring in; '' is no limit.
-- KEYS  1 leader  2 job    ARGV  1 'term:token' of the leader  2 uid  3 fingerprint  4 rates
-- Returns 1, or 0: another leads, or this is not the job or the plan any more.
if redis.call('GET', KEYS[1]) ~= ARGV[1] then
  return 0
end
local job = redis.call('HMGET', KEYS[2], 'uid', 'fingerprint')
if job[1] ~= ARGV[2] or job[2] ~= ARGV[3] then
  return 0
end
redis.call('HSET', KEYS[2], 'rates', ARGV[4])
return 1
