-- The latest value per key: a hash is replaced by one that is not older.
-- KEYS  the hashes    ARGV  1 time to live (ms, 0 for none)  then per key: order, number of words, field, value, ...
-- An order is text of one length, so that it compares as the numbers in it do; numbers in scripts are exact to 2^53 only.
-- Returns how many were replaced, then the places of keys that hold something else.
local ttl, at, reply = tonumber(ARGV[1]), 2, {0}
for k = 1, #KEYS do
  local order, n = ARGV[at], tonumber(ARGV[at + 1])
  local kind = redis.call('TYPE', KEYS[k])['ok']
  if kind ~= 'none' and kind ~= 'hash' then
    reply[#reply + 1] = k
  else
    local stored = redis.call('HGET', KEYS[k], '_order')
    if not stored or stored <= order then
      redis.call('DEL', KEYS[k])
      redis.call('HSET', KEYS[k], '_order', order, unpack(ARGV, at + 2, at + 1 + n))
      if ttl > 0 then
        redis.call('PEXPIRE', KEYS[k], ttl)
      end
      reply[1] = reply[1] + 1
    end
  end
  at = at + 2 + n
end
return reply
