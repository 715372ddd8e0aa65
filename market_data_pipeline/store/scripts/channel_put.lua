-- Append to a stream channel.  KEYS 1 stream  2 closed flag    ARGV 1 blob  2 capacity    Returns the length; -1 closed; -2 full
if redis.call('EXISTS', KEYS[2]) == 1 then
  return -1
end
local length = redis.call('XLEN', KEYS[1])
if length >= tonumber(ARGV[2]) then
  return -2
end
redis.call('XADD', KEYS[1], '*', 'f', ARGV[1])
return length + 1
