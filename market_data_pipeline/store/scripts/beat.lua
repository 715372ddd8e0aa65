-- A worker lives. Each process that takes a name gets a number; a later one takes the name over from an earlier one.
-- Numbers are times, so that none comes again when the server was rolled back or the name was forgotten.
-- KEYS  1 heartbeat  2 workers  3 incarnations    ARGV  1 heartbeat  2 ttl (ms)  3 name  4 token  5 its number, 0 at first
--       6 job key  7 uid
-- Returns its number, 0 when a process that started later has the name, or -1 when the job is gone: its name may be another's.
if redis.call('HGET', ARGV[6], 'uid') ~= ARGV[7] then
  return -1
end
local held = redis.call('HGET', KEYS[3], ARGV[3])
local number, mine = 0, tonumber(ARGV[5])
if held then
  number = tonumber(string.match(held, '^(%d+):'))
end
if mine == 0 then
  local now = redis.call('TIME')
  mine = math.max(number + 1, tonumber(now[1]) * 1000000 + tonumber(now[2]))
elseif number > mine then
  return 0
end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
redis.call('SADD', KEYS[2], ARGV[3])
redis.call('HSET', KEYS[3], ARGV[3], string.format('%d', mine) .. ':' .. ARGV[4])
return mine
