-- End a running job as finished or failed.  KEYS 1 job  2 wake  3 ended tasks
-- ARGV 1 uid  2 state  3 error  4 how many tasks must have ended, 5 fingerprint
--      then, when a task says it: 6 lease key  7 epoch  8 token
-- Returns 1 done, 0 not so, -1 the task is a zombie: its troubles are its own
if ARGV[6] then
  local lease = redis.call('HMGET', ARGV[6], 'epoch', 'token')
  if lease[1] ~= ARGV[7] or lease[2] ~= ARGV[8] then
    return -1
  end
end
local job = redis.call('HMGET', KEYS[1], 'uid', 'state', 'fingerprint')
if job[1] ~= ARGV[1] or job[2] ~= 'running' then
  return 0
end
if job[3] ~= ARGV[5] then
  return 0 -- said of another plan, with other tasks
end
if redis.call('SCARD', KEYS[3]) < tonumber(ARGV[4]) then
  return 0
end
redis.call('HSET', KEYS[1], 'state', ARGV[2], 'error', ARGV[3])
redis.call('HINCRBY', KEYS[1], 'version', 1)
redis.call('LPUSH', KEYS[2], '1')
redis.call('LTRIM', KEYS[2], 0, 99)
return 1
