-- Exchange a job's plan and its tasks' records, all or nothing. Every check comes before the first write.
-- KEYS  1 leader  2 job  3 wake  4 ended tasks  5 assignment
--       then the old tasks' records; per new task the staged record and where it goes; per staged state the same;
--       the keys that are deleted first; the streams that must be empty; the leases
-- ARGV  1 'term:token' of the leader  2 uid  3 old fingerprint  4 plan  5 fingerprint
--       6 old tasks  7 new tasks  8 staged states  9 keys to delete  10 streams  11 leases  12 names in the ended set
--       then the old tasks' commit ids, then the names of ended tasks
-- Returns OK; or LEADER, JOB, MOVED and the record of a task that has committed since it was read, or FRAMES and a stream.
if redis.call('GET', KEYS[1]) ~= ARGV[1] then
  return {'LEADER'}
end
local job = redis.call('HMGET', KEYS[2], 'uid', 'fingerprint')
if job[1] ~= ARGV[2] or job[2] ~= ARGV[3] then
  return {'JOB'}
end
local n_old, n_new, n_state = tonumber(ARGV[6]), tonumber(ARGV[7]), tonumber(ARGV[8])
local n_del, n_streams, n_leases = tonumber(ARGV[9]), tonumber(ARGV[10]), tonumber(ARGV[11])
local old_key = 6
local staged_key = old_key + n_old
local state_key = staged_key + 2 * n_new
local del_key = state_key + 2 * n_state
local stream_key = del_key + n_del
local lease_key = stream_key + n_streams
for i = 0, n_old - 1 do
  if redis.call('HGET', KEYS[old_key + i], 'commit') ~= ARGV[13 + i] then
    return {'MOVED', KEYS[old_key + i]}
  end
end
for i = 0, n_streams - 1 do
  if redis.call('XLEN', KEYS[stream_key + i]) > 0 then
    return {'FRAMES', KEYS[stream_key + i]}
  end
end
for i = 0, n_new - 1 do
  if redis.call('EXISTS', KEYS[staged_key + 2 * i]) == 0 then
    return {'LEADER'} -- what was staged is gone: another cleared it
  end
end
for i = 0, n_state - 1 do
  if redis.call('EXISTS', KEYS[state_key + 2 * i]) == 0 then
    return {'LEADER'}
  end
end
for i = 0, n_del - 1 do
  redis.call('UNLINK', KEYS[del_key + i])
end
for i = 0, n_new - 1 do
  redis.call('RENAME', KEYS[staged_key + 2 * i], KEYS[staged_key + 2 * i + 1])
  redis.call('PERSIST', KEYS[staged_key + 2 * i + 1])
end
for i = 0, n_state - 1 do
  redis.call('RENAME', KEYS[state_key + 2 * i], KEYS[state_key + 2 * i + 1])
  redis.call('PERSIST', KEYS[state_key + 2 * i + 1])
end
for i = 0, n_leases - 1 do -- no process of the old plan is an owner any more, whatever it believes
  redis.call('HSET', KEYS[lease_key + i], 'token', '', 'worker', '')
end
local owners = redis.call('HGETALL', KEYS[5])
for i = 1, #owners, 2 do
  redis.call('HSET', KEYS[5], owners[i], string.match(owners[i + 1], '^(%d+):') .. '::')
end
redis.call('DEL', KEYS[4])
for i = 1, tonumber(ARGV[12]) do
  redis.call('SADD', KEYS[4], ARGV[12 + n_old + i])
end
redis.call('HSET', KEYS[2], 'plan', ARGV[4], 'fingerprint', ARGV[5], 'state', 'running', 'error', '', 'phase', '',
  'deploy', '')
redis.call('HINCRBY', KEYS[2], 'version', 1)
redis.call('LPUSH', KEYS[3], '1')
redis.call('LTRIM', KEYS[3], 0, 99)
return {'OK'}
