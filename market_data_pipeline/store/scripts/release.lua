-- A worker gives a partition back.  KEYS 1 lease  2 assignment  3 job  4 wake    ARGV 1 epoch  2 token  3 partition
local lease = redis.call('HMGET', KEYS[1], 'epoch', 'token')
if lease[1] ~= ARGV[1] or lease[2] ~= ARGV[2] then
  return 0
end
redis.call('HSET', KEYS[1], 'token', '', 'worker', '')
redis.call('HSET', KEYS[2], ARGV[3], ARGV[1] .. '::')
redis.call('HINCRBY', KEYS[3], 'version', 1)
redis.call('LPUSH', KEYS[4], '1')
redis.call('LTRIM', KEYS[4], 0, 99)
return 1
