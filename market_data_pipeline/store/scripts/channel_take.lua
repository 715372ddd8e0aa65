-- Take from the head of a stream channel.  KEYS 1 stream  2 closed flag    ARGV 1 count
-- Returns {closed (0 or 1), length left, blob, ...}
local taken = redis.call('XRANGE', KEYS[1], '-', '+', 'COUNT', ARGV[1])
local reply = {redis.call('EXISTS', KEYS[2]), 0}
for _, entry in ipairs(taken) do
  redis.call('XDEL', KEYS[1], entry[1])
  reply[#reply + 1] = entry[2][2]
end
reply[2] = redis.call('XLEN', KEYS[1])
return reply
