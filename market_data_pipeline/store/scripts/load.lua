-- Read a task's record and state together with who may commit for it.
-- KEYS  1 task record  2 state    ARGV  1 lease key
-- Returns {server time, {epoch, token}, {commit, meta, ended}, {field, blob, ...}}
return {
  redis.call('TIME'),
  redis.call('HMGET', ARGV[1], 'epoch', 'token'),
  redis.call('HMGET', KEYS[1], 'commit', 'meta', 'ended'),
  redis.call('HGETALL', KEYS[2]),
}
