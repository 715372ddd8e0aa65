-- Forget workers: one that leaves, or those whose heartbeats have run out.
-- KEYS  1 workers  2 incarnations  3 wake  4.. heartbeats    ARGV  1 token of the one that leaves, or ''  2.. names
-- Returns how many were forgotten.
local forgotten = 0
for i = 4, #KEYS do
  local name, gone = ARGV[i - 2], redis.call('EXISTS', KEYS[i]) == 0
  if not gone and ARGV[1] ~= '' then
    local held = redis.call('HGET', KEYS[2], name) or ''
    gone = string.match(held, ':(.*)$') == ARGV[1]
  end
  if gone then
    redis.call('DEL', KEYS[i])
    redis.call('SREM', KEYS[1], name)
    redis.call('HDEL', KEYS[2], name)
    forgotten = forgotten + 1
  end
end
if ARGV[1] ~= '' then
  redis.call('LPUSH', KEYS[3], '1')
  redis.call('LTRIM', KEYS[3], 0, 99)
end
return forgotten
