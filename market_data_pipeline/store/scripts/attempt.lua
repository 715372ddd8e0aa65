-- A task is about to begin at a commit, or marks where it is at work: whoever finds it dead knows where it died.
-- KEYS  1 task record    ARGV  1 lease key  2 epoch  3 lease token  4 commit  5 'start' or 'mark'  6 place
-- Returns {'OK', starts, suspect, deaths in a row at the suspect}, or a refusal as in commit.lua.
local lease = redis.call('HMGET', ARGV[1], 'epoch', 'token')
if lease[1] ~= ARGV[2] or lease[2] ~= ARGV[3] then
  return {'FENCED', lease[1] or ''}
end
local seen = redis.call('HMGET', KEYS[1], 'commit', 'tried', 'starts', 'place', 'suspect', 'deaths')
if not seen[1] then
  return {'LOST'}
end
if seen[1] ~= ARGV[4] then
  return {'STALE', seen[1]}
end
if ARGV[5] == 'mark' then
  redis.call('HSET', KEYS[1], 'place', ARGV[6])
  return {'OK'}
end
local starts, place, suspect, deaths = 0, '', '', 0
if seen[2] == ARGV[4] then
  starts, place, suspect, deaths = tonumber(seen[3]), seen[4], seen[5], tonumber(seen[6])
end
starts = starts + 1
if place ~= '' then
  deaths = place == suspect and deaths + 1 or 1
  suspect = place
end
redis.call('HSET', KEYS[1], 'tried', ARGV[4], 'starts', starts, 'place', '', 'suspect', suspect, 'deaths', deaths)
return {'OK', starts, suspect, deaths}
