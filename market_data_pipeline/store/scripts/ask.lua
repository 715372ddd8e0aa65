-- A deployment wants to lead: the coordinators stand aside.  KEYS 1 job  2 wake    ARGV 1 uid  2 its token
-- Returns whether this is still the job.
if redis.call('HGET', KEYS[1], 'uid') ~= ARGV[1] then
  return 0
end
redis.call('HSET', KEYS[1], 'deploy', ARGV[2])
redis.call('LPUSH', KEYS[2], '1')
redis.call('LTRIM', KEYS[2], 0, 99)
return 1
