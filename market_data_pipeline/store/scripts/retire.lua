-- The job is being removed: whatever still runs for it is refused from now on.  KEYS 1 job    ARGV 1 uid
if redis.call('HGET', KEYS[1], 'uid') ~= ARGV[1] then
  return 0
end
redis.call('HSET', KEYS[1], 'uid', '', 'state', 'removed')
redis.call('HINCRBY', KEYS[1], 'version', 1)
return 1
