-- Become leader, or stay it.  KEYS 1 leader  2 term    ARGV 1 token  2 ttl (ms)  3 job key  4 uid    Returns the term, or 0.
if redis.call('HGET', ARGV[3], 'uid') ~= ARGV[4] then
  return 0
end
local held = redis.call('GET', KEYS[1])
if not held then
  local term = redis.call('INCR', KEYS[2])
  redis.call('SET', KEYS[1], term .. ':' .. ARGV[1], 'PX', ARGV[2])
  return term
end
local term, token = string.match(held, '^(%d+):(.*)$')
if token == ARGV[1] then
  redis.call('PEXPIRE', KEYS[1], ARGV[2])
  return tonumber(term)
end
return 0
