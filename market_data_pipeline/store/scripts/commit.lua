-- The commit: outputs + state + consumed inputs, all or nothing. Every check comes before the first write, because a
-- script that fails in the middle keeps its earlier writes.
--
-- KEYS  1 task record  2 state  3 ended set  4 dead letters  5 bytes of own partition
--       then the input streams, then per output: stream, bytes hash
-- ARGV  1 job key  2 job uid  3 fingerprint  4 lease key  5 epoch  6 lease token  7 parent commit  8 this commit
--       9 meta  10 ended ('1' or '0')  11 task name  12 inputs  13 outputs  14 dead letters  15 state sets
--       16 state deletes  17 dead letter capacity  18 idle: '1' when no input was used
--       then per input: first id, last id, trim id (behind the last, or the last if it was used in part), entries, bytes
--       then per output: frames, bytes, capacity, reserve, byte capacity, byte reserve
--       then frames, dead letters, state pairs, state fields to delete
-- The lease and the job are read-only, so their names come in ARGV: a role needs no write right on them.

local job = redis.call('HMGET', ARGV[1], 'uid', 'fingerprint')
if job[1] ~= ARGV[2] or job[2] ~= ARGV[3] then
  return {'JOB', job[1] or '', job[2] or ''}
end

local n_in, n_out, n_dead = tonumber(ARGV[12]), tonumber(ARGV[13]), tonumber(ARGV[14])
local n_set, n_del = tonumber(ARGV[15]), tonumber(ARGV[16])
local out_key, in_arg = 6 + n_in, 19
local out_arg = in_arg + 5 * n_in

local function lengths(reply)
  for i = 0, n_out - 1 do
    reply[#reply + 1] = redis.call('XLEN', KEYS[out_key + 2 * i])
  end
  return reply
end

local stored = redis.call('HGET', KEYS[1], 'commit')
if stored == ARGV[8] then
  redis.call('HSET', KEYS[1], 'commit', stored) -- the same again, so that a WAIT behind it has a write to wait for
  return lengths({'DUP'})
end

local lease = redis.call('HMGET', ARGV[4], 'epoch', 'token')
if lease[1] ~= ARGV[5] or lease[2] ~= ARGV[6] then
  return {'FENCED', lease[1] or ''}
end

if not stored then
  return {'LOST'}
end
if stored ~= ARGV[7] then
  return {'STALE', stored}
end

-- The batch is a prefix: nothing before its first entry, and its last one is there. Entries are appended in order and
-- removed from the head only, and a server that lost its tail lost it from the end: so all between are there too.
for i = 0, n_in - 1 do
  local key, a = KEYS[6 + i], in_arg + 5 * i
  if #redis.call('XRANGE', key, '-', '(' .. ARGV[a], 'COUNT', 1) > 0
    or #redis.call('XRANGE', key, ARGV[a + 1], ARGV[a + 1], 'COUNT', 1) == 0
    or redis.call('XLEN', key) < tonumber(ARGV[a + 3]) then
    return {'HEAD', key}
  end
end

local full = {'FULL'}
for i = 0, n_out - 1 do
  local stream, a = KEYS[out_key + 2 * i], out_arg + 6 * i
  local frames, bytes = tonumber(ARGV[a]), tonumber(ARGV[a + 1])
  local used = tonumber(redis.call('HGET', KEYS[out_key + 2 * i + 1], stream) or '0')
  if redis.call('XLEN', stream) + math.max(frames, tonumber(ARGV[a + 3])) > tonumber(ARGV[a + 2])
    or used + math.max(bytes, tonumber(ARGV[a + 5])) > tonumber(ARGV[a + 4]) then
    full[#full + 1] = stream
  end
end
if redis.call('XLEN', KEYS[4]) + n_dead > tonumber(ARGV[17]) and n_dead > 0 then
  full[#full + 1] = KEYS[4]
end
if #full > 1 then
  return full
end

-- A right that was taken away since the start must be missed here, and not between two writes. EVALSHA has asked for the keys
-- in KEYS, so these are the commands; the job's key is the first in the rules of 'mdp acl', and found soonest.
local function lacks(...)
  return not redis.acl_check_cmd(...)
end
if lacks('XADD', ARGV[1], '*', '', '') or lacks('HINCRBY', ARGV[1], '', '1') or lacks('HSET', ARGV[1], '', '')
  or lacks('HDEL', ARGV[1], '') or lacks('SADD', ARGV[1], '') or lacks('XTRIM', ARGV[1], 'MINID', '0') then
  return redis.error_reply('NOPERM this user lacks a command of the commit, and nothing was written')
end

redis.call('HLEN', KEYS[2]) -- these raise on a wrong type, while nothing is written yet
redis.call('SCARD', KEYS[3])
redis.call('HLEN', KEYS[5])

local arg = out_arg + 6 * n_out
for i = 0, n_out - 1 do
  local stream, a = KEYS[out_key + 2 * i], out_arg + 6 * i
  for _ = 1, tonumber(ARGV[a]) do
    redis.call('XADD', stream, '*', 'f', ARGV[arg])
    arg = arg + 1
  end
  redis.call('HINCRBY', KEYS[out_key + 2 * i + 1], stream, ARGV[a + 1])
end
for _ = 1, n_dead do
  redis.call('XADD', KEYS[4], '*', 'd', ARGV[arg])
  arg = arg + 1
end
local CHUNK = 1000
local set_end = arg + 2 * n_set
while arg < set_end do
  local stop = math.min(arg + 2 * CHUNK, set_end)
  redis.call('HSET', KEYS[2], unpack(ARGV, arg, stop - 1))
  arg = stop
end
local del_end = arg + n_del
while arg < del_end do
  local stop = math.min(arg + CHUNK, del_end)
  redis.call('HDEL', KEYS[2], unpack(ARGV, arg, stop - 1))
  arg = stop
end
if ARGV[18] == '1' and redis.call('HGET', KEYS[1], 'tried') == ARGV[7] then
  redis.call('HSET', KEYS[1], 'tried', ARGV[8]) -- the next input is still the one at which processes died
end
redis.call('HSET', KEYS[1], 'commit', ARGV[8], 'meta', ARGV[9], 'ended', ARGV[10])
if ARGV[10] == '1' then
  redis.call('SADD', KEYS[3], ARGV[11])
end
local gap = false
for i = 0, n_in - 1 do
  local key, a = KEYS[6 + i], in_arg + 5 * i
  if redis.call('XTRIM', key, 'MINID', ARGV[a + 2]) ~= tonumber(ARGV[a + 3]) then
    gap = key
  end
  redis.call('HINCRBY', KEYS[5], key, 0 - tonumber(ARGV[a + 4])) -- not -n: that is '-0' for 0, which Redis refuses
end
if gap then
  return {'GAP', gap}
end
return lengths({'OK'})
