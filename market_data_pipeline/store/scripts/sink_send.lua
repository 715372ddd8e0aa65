-- Append a part of what a task has committed to output streams, once. Every check comes before the first write, because a
-- script that fails in the middle keeps its earlier writes.
-- KEYS  1 the task's marker  2.. streams
-- ARGV  1 generation (20 digits)  2 id of the commit's content  3 number of the part, from 0  4 maxlen ('' for none)
--       5 time to live of the marker (ms)  6 field  then per entry: place of its stream, value
-- Returns SENT; DONE when it was there already; LATER when a later opening of the task has written: it sent this, too;
-- or TYPE and the stream's key.
local seen = redis.call('HMGET', KEYS[1], 'generation', 'id', 'next')
if seen[1] and seen[1] > ARGV[1] then
  return {'LATER'}
end
local part = tonumber(ARGV[3])
if seen[2] == ARGV[2] and part < tonumber(seen[3]) then
  return {'DONE'}
end
for i = 2, #KEYS do
  local kind = redis.call('TYPE', KEYS[i])['ok']
  if kind ~= 'none' and kind ~= 'stream' then
    return {'TYPE', KEYS[i]}
  end
  if not redis.acl_check_cmd('XADD', KEYS[i], '*', ARGV[6], '') then
    return redis.error_reply('NOPERM this user may not run XADD on an output stream')
  end
end
if not (redis.acl_check_cmd('HSET', KEYS[1], 'id', '') and redis.acl_check_cmd('PEXPIRE', KEYS[1], '1')) then
  return redis.error_reply('NOPERM this user may not run HSET and PEXPIRE on the marker ' .. KEYS[1])
end
for i = 7, #ARGV, 2 do
  local stream = KEYS[1 + tonumber(ARGV[i])]
  if ARGV[4] == '' then
    redis.call('XADD', stream, '*', ARGV[6], ARGV[i + 1])
  else
    redis.call('XADD', stream, 'MAXLEN', '~', ARGV[4], '*', ARGV[6], ARGV[i + 1])
  end
end
redis.call('HSET', KEYS[1], 'generation', ARGV[1], 'id', ARGV[2], 'next', part + 1)
redis.call('PEXPIRE', KEYS[1], ARGV[5])
return {'SENT'}
