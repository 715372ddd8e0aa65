-- Create a job, or find it: one job per name. Task records are made here, so that a missing one later means loss.
-- KEYS  1 job  2.. task records      ARGV  1 commit id of the beginning, then field, value, ...
local uid = redis.call('HGET', KEYS[1], 'uid')
if uid then
  return {'EXISTS', uid}
end
for i = 2, #KEYS do
  redis.call('HSET', KEYS[i], 'commit', ARGV[1], 'meta', '', 'ended', '0')
end
redis.call('HSET', KEYS[1], unpack(ARGV, 2))
return {'NEW'}
