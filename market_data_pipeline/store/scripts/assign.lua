-- Give partitions to workers. The leader's term is checked here, the epoch comes from here.
-- KEYS  1 leader  2 job  3 epochs  4 assignment  5.. leases    ARGV  1 'term:token', then partition, worker, token, ...
if redis.call('GET', KEYS[1]) ~= ARGV[1] then
  return 0
end
for i = 0, #KEYS - 5 do
  local partition, worker, token = ARGV[2 + 3 * i], ARGV[3 + 3 * i], ARGV[4 + 3 * i]
  local epoch = redis.call('HINCRBY', KEYS[3], partition, 1)
  redis.call('HSET', KEYS[5 + i], 'epoch', epoch, 'token', token, 'worker', worker)
  redis.call('HSET', KEYS[4], partition, epoch .. ':' .. token .. ':' .. worker)
end
redis.call('HINCRBY', KEYS[2], 'version', 1)
return 1
