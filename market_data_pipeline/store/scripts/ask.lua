-- A deployment wants to lead: the coordinators stand aside.  KEYS 1 job  2 wake    ARGV 1 uid  2 its token  3 fingerprint
-- Returns whether this is still the job, with the plan that was compared.
local job = redis.call('HMGET', KEYS[1], 'uid', 'fingerprint')
if job[1] ~= ARGV[1] or job[2] ~= ARGV[3] then
  return 0
end
redis.call('HSET', KEYS[1], 'deploy', ARGV[2])
redis.call('LPUSH', KEYS[2], '1')
redis.call('LTRIM', KEYS[2], 0, 99)
return 1
