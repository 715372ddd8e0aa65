-- A worker lives. Each process that takes a name gets a number; a later one takes the name over from an earlier one.
-- KEYS  1 heartbeat  2 workers  3 incarnations    ARGV  1 heartbeat  2 ttl (ms)  3 name  4 token  5 its number, 0 at first
-- Returns its number, or 0: a process that started later has the name.
local held = redis.call('HGET', KEYS[3], ARGV[3])
local number, token = 0, ''
if held then
  number, token = string.match(held, '^(%d+):(.*)$')
  number = tonumber(number)
end
local mine = tonumber(ARGV[5])
if mine == 0 then
  mine = number + 1
elseif number > mine or (number == mine and token ~= ARGV[4]) then
  return 0
end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
redis.call('SADD', KEYS[2], ARGV[3])
redis.call('HSET', KEYS[3], ARGV[3], string.format('%d', mine) .. ':' .. ARGV[4])
return mine
