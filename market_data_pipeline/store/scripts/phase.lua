-- Where a deployment is, for the workers; '' also ends it.
-- KEYS  1 leader  2 job  3 wake    ARGV  1 'term:token' of the leader  2 uid  3 fingerprint  4 phase  5 the deployment's token
-- Returns 1, or 0: another leads, or this is not the job or the plan any more.
if redis.call('GET', KEYS[1]) ~= ARGV[1] then
  return 0
end
local job = redis.call('HMGET', KEYS[2], 'uid', 'fingerprint')
if job[1] ~= ARGV[2] or job[2] ~= ARGV[3] then
  return 0
end
redis.call('HSET', KEYS[2], 'phase', ARGV[4], 'deploy', ARGV[5])
redis.call('HINCRBY', KEYS[2], 'version', 1)
redis.call('LPUSH', KEYS[3], '1')
redis.call('LTRIM', KEYS[3], 0, 99)
return 1
