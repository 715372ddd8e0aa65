-- Let a failed job run again.  KEYS 1 job    ARGV 1 uid
local job = redis.call('HMGET', KEYS[1], 'uid', 'state')
if job[1] ~= ARGV[1] or job[2] ~= 'failed' then
  return 0
end
redis.call('HSET', KEYS[1], 'state', 'running', 'error', '')
redis.call('HINCRBY', KEYS[1], 'version', 1)
return 1
